-- The ideas as they are; none while there is no schema `ideas`. In PL/pgSQL, which looks for the table when it is asked:
-- so neither schema waits for the other, and either can be dropped alone.
create function warehouse.ideas_now()
returns table (
    idea_id bigint, title text, description text, category text, priority text, status text, tags text[],
    created_at timestamptz, updated_at timestamptz
)
language plpgsql stable as $$
begin
    if to_regclass('ideas.ideas') is not null then
        return query select i.id, i.title, i.description, i.category, i.priority, i.status, i.tags, i.created_at,
                            i.updated_at
                     from ideas.ideas i;
    end if;
end $$;

-- The words of an idea, in capitals: PETR4 is in "vender petr4," and not in PETR41.
create function warehouse.mentioned(title text, description text, tags text[]) returns table (word text)
language sql stable as $$
    select distinct upper(w.word)
    from regexp_split_to_table(title || ' ' || description || ' ' || array_to_string(tags, ' '), '[^[:alnum:]]+') w (word)
    where w.word <> ''
$$;

create view warehouse.idea_signals as
select i.idea_id, i.title, i.category, i.priority, i.status, i.created_at, s.ts, s.channel, s.signal_type, s.asset, s.kind,
       s.underlying, s.buy_min, s.buy_max, s.target_1, s.target_2, s.target_final, s.stop, s.day,
       s.ts <= i.created_at as known_then
from warehouse.ideas_now() i
cross join lateral warehouse.mentioned(i.title, i.description, i.tags) m
join warehouse.signals s on upper(s.asset) = m.word;
comment on view warehouse.idea_signals is
    'A row for each idea and signal whose ticker the idea''s title, description or tags name as a whole word; known_then: '
    'the signal had come when the idea was written.';

create view warehouse.ideas_with_settlement as
select i.idea_id, i.title, i.category, i.priority, i.status, i.tags, i.created_at, i.updated_at,
       dol.contract_month as dol_contract, dol.price_settlement as dol_settlement, dol.session as dol_session,
       dol.known_at as dol_known_at, dol.feed as dol_feed,
       di1.contract_month as di1_contract, di1.price_settlement as di1_settlement, di1.session as di1_session,
       di1.known_at as di1_known_at, di1.feed as di1_feed,
       ddi.contract_month as ddi_contract, ddi.price_settlement as ddi_settlement, ddi.session as ddi_session,
       ddi.known_at as ddi_known_at, ddi.feed as ddi_feed
from warehouse.ideas_now() i
left join lateral warehouse.front_settlement_at(i.created_at, 'DOL') dol on true
left join lateral warehouse.front_settlement_at(i.created_at, 'DI1') di1 on true
left join lateral warehouse.front_settlement_at(i.created_at, 'DDI') ddi on true;
comment on view warehouse.ideas_with_settlement is
    'A row for each idea, with the settlements of the front contracts of DOL, DI1 and DDI that were known when it was '
    'written.';
