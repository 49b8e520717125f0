drop view warehouse.ideas_with_settlement, warehouse.idea_signals;
drop function warehouse.ideas_now, warehouse.mentioned;
