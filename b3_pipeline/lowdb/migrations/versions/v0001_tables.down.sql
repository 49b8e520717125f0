drop table ideas.documentation_files, ideas.documentation_links, ideas.documentation_ideas, ideas.documentation_systems;
drop table ideas.loads, ideas.idea_history, ideas.idea_tags;
drop function ideas.told;
drop table ideas.ideas;
drop function ideas.ideas_inserted, ideas.ideas_updated, ideas.ideas_deleted, ideas.ideas_truncated;
drop function ideas.words, ideas.words_of_long, ideas.spaced, ideas.folded, ideas.who;
