-- The same text as before, so what was folded stays as it is.
create or replace function ideas.folded(text) returns text language sql immutable parallel safe
return lower(replace(replace(replace(replace(replace(replace(normalize($1, nfd),
    U&'\0300', ''), U&'\0301', ''), U&'\0302', ''), U&'\0303', ''), U&'\0308', ''), U&'\0327', '') collate "C");
