-- A moment's day in Brasília.
create function warehouse.local_day(moment timestamptz) returns date
language sql immutable as $$ select (moment at time zone 'America/Sao_Paulo')::date $$;

-- The session that a row of a legacy feed carries: before 18:00 local the session before, afterwards that of its day.
create function warehouse.captured_session(moment timestamptz) returns date
language sql stable as $$
    select case when (moment at time zone 'America/Sao_Paulo')::time < '18:00' then previous_session else session end
    from warehouse.days where day = warehouse.local_day(moment)
$$;

-- What was known of a contract at a moment: of rows dated up to it, that of the latest session; of one session's, that of
-- the feed that takes precedence; of one feed's, the last. Of each feed its newest row is looked up in an index.
-- Parts of queries, for the planner puts the body of such a function in place of its call.
create function warehouse.settlement_at(at_moment timestamptz, of_instrument text, of_contract text)
returns table (
    instrument text, contract_month text, price_settlement double precision, price_prev double precision,
    settlement_rate double precision, open_interest bigint, session date, known_at timestamptz, feed text
)
language sql stable rows 1 as $$
    select of_instrument, of_contract, r.price_settlement, r.price_prev, r.settlement_rate, r.open_interest, r.session,
           r.ts, f.feed
    from warehouse.feeds f
    cross join lateral (
        (
            select a.ts, a.price_settlement, a.price_prev, a.settlement_rate, a.open_interest, a.trade_date as session
            from warehouse.b3_adjustments a
            where a.instrument = of_instrument and a.contract_month = of_contract and a.feed = f.feed
              and a.ts <= at_moment
            order by a.ts desc limit 1
        )
        union all
        (
            select s.ts, s.price_settlement, s.price_settlement_prev, null, null, warehouse.captured_session(s.ts)
            from warehouse.b3_snapshots s
            where s.instrument = of_instrument and s.contract_month = of_contract and s.feed = f.feed
              and s.ts <= at_moment and f.legacy and s.price_settlement is not null
            order by s.ts desc limit 1
        )
    ) r
    order by r.session desc nulls last, f.rank, r.ts desc
    limit 1
$$;

-- The same of the front contract of the moment's day; while nothing is known of it, of the front contract before.
create function warehouse.front_settlement_at(at_moment timestamptz, of_instrument text)
returns table (
    instrument text, contract_month text, price_settlement double precision, price_prev double precision,
    settlement_rate double precision, open_interest bigint, session date, known_at timestamptz, feed text
)
language sql stable rows 1 as $$
    select k.instrument, k.contract_month, k.price_settlement, k.price_prev, k.settlement_rate, k.open_interest,
           k.session, k.known_at, k.feed
    from warehouse.days d
    cross join lateral (
        values
            (1, case when of_instrument in ('WIN', 'IND') then d.index_front else d.front end),
            (2, case when of_instrument in ('WIN', 'IND') then d.index_front_before else d.front_before end)
    ) c (preference, contract_month)
    cross join lateral warehouse.settlement_at(at_moment, of_instrument, c.contract_month) k
    where d.day = warehouse.local_day(at_moment)
    order by c.preference
    limit 1
$$;

-- The levels of an instrument (ES_SP500, VIX) that were known at a moment.
create function warehouse.gamma_at(at_moment timestamptz, of_instrument text)
returns table (
    instrument text, call_wall double precision, put_wall double precision, gamma_flip double precision,
    known_at timestamptz, feed text
)
language sql stable rows 1 as $$
    select of_instrument, r.call_wall, r.put_wall, r.gamma_flip, r.ts, f.feed
    from warehouse.feeds f
    cross join lateral (
        select g.ts, g.call_wall, g.put_wall, g.gamma_flip
        from warehouse.b3_gamma_levels g
        where g.instrument = of_instrument and g.feed = f.feed and g.ts <= at_moment
        order by g.ts desc limit 1
    ) r
    order by r.ts desc, f.rank
    limit 1
$$;

-- Which surface was known at a moment: its rows are those of this feed and time.
create function warehouse.surface_at(at_moment timestamptz)
returns table (known_at timestamptz, feed text, session date)
language sql stable rows 1 as $$
    select r.ts, f.feed, r.session
    from warehouse.feeds f
    cross join lateral (
        select v.ts, case when f.legacy then warehouse.captured_session(v.ts) else warehouse.local_day(v.ts) end as session
        from warehouse.b3_vol_surface v
        where v.feed = f.feed and v.ts <= at_moment
        order by v.ts desc limit 1
    ) r
    order by r.session desc, f.rank, r.ts desc
    limit 1
$$;

-- The reading of the dollar index that was known at a moment: percent change against its previous close.
create function warehouse.dxy_at(at_moment timestamptz)
returns table (value double precision, known_at timestamptz, feed text)
language sql stable rows 1 as $$
    select r.value, r.ts, f.feed
    from warehouse.feeds f
    cross join lateral (
        select x.ts, x.value
        from warehouse.b3_dxy_ticks x
        where x.feed = f.feed and x.ts <= at_moment
        order by x.ts desc limit 1
    ) r
    order by r.ts desc, f.rank
    limit 1
$$;

-- The value of an indicator (taxa_selic, …) that was known at a moment.
create function warehouse.indicator_at(at_moment timestamptz, of_indicator text)
returns table (indicator text, value double precision, known_at timestamptz, feed text)
language sql stable rows 1 as $$
    select of_indicator, r.value, r.ts, f.feed
    from warehouse.feeds f
    cross join lateral (
        select i.ts, i.value
        from warehouse.b3_indicators_daily i
        where i.indicator = of_indicator and i.feed = f.feed and i.ts <= at_moment
        order by i.ts desc limit 1
    ) r
    order by r.ts desc, f.rank
    limit 1
$$;

create view warehouse.signals as
select s.ts, s.channel, s.signal_type, s.asset, a.kind, a.underlying, a.option_right, a.expiry_month, a.instrument,
       a.contract_month, s.buy_min, s.buy_max, s.target_1, s.target_2, s.target_final, s.stop, s.raw_message, s.source,
       warehouse.local_day(s.ts) as day
from warehouse.tp_capital_signals s
left join warehouse.assets a on a.asset = s.asset
where not exists (
    select from warehouse.tp_capital_signals_deleted x
    where x.ts = s.ts and x.channel = s.channel and x.signal_type = s.signal_type and x.asset = s.asset
);
comment on view warehouse.signals is
    'The signals that nobody has deleted, with what their ticker says; day is the local one.';

create view warehouse.signal_settlements as
select s.ts, s.channel, s.signal_type, s.asset, k.instrument, k.contract_month,
       k.instrument = s.instrument and k.contract_month = s.contract_month as own,
       k.price_settlement, k.price_prev, k.settlement_rate, k.open_interest, k.session, k.known_at, k.feed
from warehouse.signals s
cross join lateral (
    select i.instrument, case when i.instrument = s.instrument then s.contract_month end as own_contract
    from (values ('DI1'), ('DDI'), ('DOL'), ('WDO'), ('WIN'), ('IND')) i (instrument)
) i
cross join lateral (
    select * from warehouse.settlement_at(s.ts, i.instrument, i.own_contract) where i.own_contract is not null
    union all
    select * from warehouse.front_settlement_at(s.ts, i.instrument) where i.own_contract is null
) k;
comment on view warehouse.signal_settlements is
    'A row for each signal and future: the settlement known at the signal''s moment, of its own contract or the front one.';

create view warehouse.signal_gamma as
select s.ts, s.channel, s.signal_type, s.asset, g.instrument, g.call_wall, g.put_wall, g.gamma_flip, g.known_at, g.feed
from warehouse.signals s
cross join (values ('ES_SP500'), ('VIX')) i (instrument)
cross join lateral warehouse.gamma_at(s.ts, i.instrument) g;
comment on view warehouse.signal_gamma is
    'A row for each signal and instrument with gamma levels: those known at the signal''s moment.';

create view warehouse.signal_surface as
select s.ts, s.channel, s.signal_type, s.asset, v.contract_month as tenor, v.delta_bucket, v.volatility, k.known_at,
       k.session, k.feed
from warehouse.signals s
cross join lateral warehouse.surface_at(s.ts) k
join warehouse.b3_vol_surface v on v.feed = k.feed and v.ts = k.known_at;
comment on view warehouse.signal_surface is
    'A row for each signal, tenor and delta: the surface of dollar volatilities known at the signal''s moment.';

create view warehouse.signals_known as
select s.ts, s.channel, s.signal_type, s.asset, s.kind, s.underlying, s.option_right, s.expiry_month, s.instrument,
       s.contract_month, s.buy_min, s.buy_max, s.target_1, s.target_2, s.target_final, s.stop, s.source, s.day,
       own.price_settlement as settlement, own.session as settlement_session, own.known_at as settlement_known_at,
       own.feed as settlement_feed,
       dol.contract_month as dol_contract, dol.price_settlement as dol_settlement, dol.session as dol_session,
       dol.known_at as dol_known_at, dol.feed as dol_feed,
       di1.contract_month as di1_contract, di1.price_settlement as di1_settlement, di1.session as di1_session,
       di1.known_at as di1_known_at, di1.feed as di1_feed,
       ddi.contract_month as ddi_contract, ddi.price_settlement as ddi_settlement, ddi.session as ddi_session,
       ddi.known_at as ddi_known_at, ddi.feed as ddi_feed,
       es.call_wall as es_call_wall, es.put_wall as es_put_wall, es.gamma_flip as es_gamma_flip,
       es.known_at as es_known_at, es.feed as es_feed,
       vix.call_wall as vix_call_wall, vix.put_wall as vix_put_wall, vix.gamma_flip as vix_gamma_flip,
       vix.known_at as vix_known_at, vix.feed as vix_feed,
       surface.tenor as vol_tenor, surface.volatility as vol_at_the_money, surface.session as vol_session,
       surface.known_at as vol_known_at, surface.feed as vol_feed,
       dxy.value as dxy_change, dxy.known_at as dxy_known_at
from warehouse.signals s
left join lateral warehouse.settlement_at(s.ts, s.instrument, s.contract_month) own on true
left join lateral warehouse.front_settlement_at(s.ts, 'DOL') dol on true
left join lateral warehouse.front_settlement_at(s.ts, 'DI1') di1 on true
left join lateral warehouse.front_settlement_at(s.ts, 'DDI') ddi on true
left join lateral warehouse.gamma_at(s.ts, 'ES_SP500') es on true
left join lateral warehouse.gamma_at(s.ts, 'VIX') vix on true
left join lateral (
    select d.front_tenor as tenor, v.volatility, k.session, k.known_at, k.feed
    from warehouse.surface_at(s.ts) k
    join warehouse.days d on d.day = s.day
    left join warehouse.b3_vol_surface v on v.feed = k.feed and v.ts = k.known_at
        and v.contract_month = d.front_tenor and v.delta_bucket = 'delta_50'
) surface on true
left join lateral warehouse.dxy_at(s.ts) dxy on true;
comment on view warehouse.signals_known is
    'A row for each signal, with what was known at its moment: settlement of its own contract and of the front contracts, '
    'gamma levels, the volatility at the money of the front tenor, and the dollar index.';

create view warehouse.daily_summary as
with chosen as (
    select distinct on (a.trade_date, a.instrument, a.contract_month)
           a.trade_date as session, a.instrument, a.contract_month, a.price_settlement, a.price_prev, a.settlement_rate,
           a.open_interest, a.ts as known_at, a.feed,
           case when a.instrument in ('WIN', 'IND') then d.index_front else d.front end as front
    from warehouse.b3_adjustments a
    join warehouse.days d on d.day = a.trade_date
    left join warehouse.feeds f on f.feed = a.feed
    order by a.trade_date, a.instrument, a.contract_month, f.rank, a.ts desc
)
select distinct on (session, instrument)
       session, instrument, contract_month, price_settlement, price_prev, price_settlement - price_prev as change,
       settlement_rate, open_interest, known_at, feed,
       count(*) over whole as contracts, sum(open_interest) over whole as open_interest_of_all
from chosen
window whole as (partition by session, instrument)
order by session, instrument, contract_month = front desc, known_at desc, contract_month;
comment on view warehouse.daily_summary is
    'A row for each session and future: its front contract''s settlement, and how many contracts and open positions it had.';

create view warehouse.daily_gamma as
with chosen as (
    select distinct on (g.ts, g.instrument)
           g.ts, warehouse.local_day(g.ts) as day, g.instrument, g.call_wall, g.put_wall, g.gamma_flip
    from warehouse.b3_gamma_levels g
    left join warehouse.feeds f on f.feed = g.feed
    order by g.ts, g.instrument, f.rank
)
select day, instrument, count(*) as readings,
       (array_agg(call_wall order by ts desc))[1] as call_wall, (array_agg(put_wall order by ts desc))[1] as put_wall,
       (array_agg(gamma_flip order by ts desc))[1] as gamma_flip,
       min(put_wall) as lowest_put_wall, max(call_wall) as highest_call_wall, max(ts) as known_at
from chosen
group by day, instrument;
comment on view warehouse.daily_gamma is
    'A row for each local day and instrument with gamma levels: the last ones, and the widest walls of the day.';

create view warehouse.daily_dxy as
with chosen as (
    select distinct on (x.ts) x.ts, warehouse.local_day(x.ts) as day, x.value
    from warehouse.b3_dxy_ticks x
    left join warehouse.feeds f on f.feed = x.feed
    where x.value is not null
    order by x.ts, f.rank, x.bucket
)
select day, count(*) as readings, (array_agg(value order by ts))[1] as first_change,
       (array_agg(value order by ts desc))[1] as last_change, min(value) as lowest_change, max(value) as highest_change,
       max(ts) as known_at
from chosen
group by day;
comment on view warehouse.daily_dxy is
    'A row for each local day: the changes of the dollar index against its previous close, in percent.';
