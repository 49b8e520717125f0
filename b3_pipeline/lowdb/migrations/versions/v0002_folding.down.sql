create or replace function ideas.folded(text) returns text language sql immutable parallel safe
return lower(translate(normalize($1, nfd), U&'\0300\0301\0302\0303\0308\0327', '') collate "C");
