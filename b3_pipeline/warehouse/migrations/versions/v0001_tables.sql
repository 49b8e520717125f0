-- Times are true UTC. The keys are those of the tables in QuestDB, in the order in which what was known when is looked
-- up: the newest row of a feed up to a moment.

create table warehouse.tp_capital_signals (
    ts           timestamptz not null,
    channel      text not null,
    signal_type  text not null,
    asset        text not null,
    buy_min      double precision,
    buy_max      double precision,
    target_1     double precision,
    target_2     double precision,
    target_final double precision,
    stop         double precision,
    raw_message  text,
    source       text,
    ingested_at  timestamptz,
    primary key (ts, channel, signal_type, asset)
);

create table warehouse.tp_capital_signals_deleted (
    ts           timestamptz not null,
    channel      text not null,
    signal_type  text not null,
    asset        text not null,
    buy_min      double precision,
    buy_max      double precision,
    target_1     double precision,
    target_2     double precision,
    target_final double precision,
    stop         double precision,
    raw_message  text,
    source       text,
    ingested_at  timestamptz,
    deleted_at   timestamptz,
    primary key (ts, channel, signal_type, asset)
);

create table warehouse.b3_adjustments (
    ts               timestamptz not null,
    instrument       text not null,
    contract_month   text not null,
    price_settlement double precision,
    price_prev       double precision,
    status           text,
    trade_date       date,
    settlement_rate  double precision,
    open_interest    bigint,
    ingested_at      timestamptz,
    feed             text not null,
    load_id          bigint,
    primary key (instrument, contract_month, feed, ts)
);

create table warehouse.b3_indicators_daily (
    ts          timestamptz not null,
    indicator   text not null,
    value       double precision,
    ingested_at timestamptz,
    feed        text not null,
    load_id     bigint,
    primary key (indicator, feed, ts)
);

create table warehouse.b3_vol_surface (
    ts             timestamptz not null,
    contract_month text not null,
    delta_bucket   text not null,
    volatility     double precision,
    updated_at     date,
    ingested_at    timestamptz,
    feed           text not null,
    load_id        bigint,
    primary key (feed, ts, contract_month, delta_bucket)
);

create table warehouse.b3_gamma_levels (
    ts          timestamptz not null,
    instrument  text not null,
    call_wall   double precision,
    put_wall    double precision,
    gamma_flip  double precision,
    raw_payload text,
    status      text,
    ingested_at timestamptz,
    feed        text not null,
    load_id     bigint,
    primary key (instrument, feed, ts)
);

create table warehouse.b3_dxy_ticks (
    ts          timestamptz not null,
    bucket      text not null,
    value       double precision,
    status      text,
    provider    text,
    ingested_at timestamptz,
    feed        text not null,
    load_id     bigint,
    primary key (feed, ts, bucket)
);

create table warehouse.b3_snapshots (
    ts                    timestamptz not null,
    coleta_data           date,
    coleta_hora           text,
    instrument            text not null,
    contract_month        text not null,
    price_settlement      double precision,
    price_settlement_prev double precision,
    status                text,
    source                text,
    ingested_at           timestamptz,
    feed                  text not null,
    load_id               bigint,
    primary key (instrument, contract_month, feed, ts)
);

-- A partition is found by its time. Not in a B-tree: the planner would look for the newest row of a feed in that one, and
-- pass over all rows of the others.
create index b3_adjustments_time on warehouse.b3_adjustments using brin (ts) with (pages_per_range = 16, autosummarize = on);
create index b3_indicators_daily_time on warehouse.b3_indicators_daily using brin (ts) with (pages_per_range = 16, autosummarize = on);
create index b3_vol_surface_time on warehouse.b3_vol_surface using brin (ts) with (pages_per_range = 16, autosummarize = on);
create index b3_gamma_levels_time on warehouse.b3_gamma_levels using brin (ts) with (pages_per_range = 16, autosummarize = on);
create index b3_dxy_ticks_time on warehouse.b3_dxy_ticks using brin (ts) with (pages_per_range = 16, autosummarize = on);
create index b3_snapshots_time on warehouse.b3_snapshots using brin (ts) with (pages_per_range = 16, autosummarize = on);

create index b3_adjustments_session on warehouse.b3_adjustments (trade_date, instrument);
create index tp_capital_signals_asset on warehouse.tp_capital_signals (asset, ts desc);

-- What is loaded: a row a partition, named as QuestDB names it. `source` is export, or open for the newest partition.
create table warehouse.loads (
    table_name  text not null,
    partition   text not null,
    checksum    text not null,
    rows        bigint not null,
    starts_at   timestamptz not null,
    ends_at     timestamptz not null,
    source      text not null check (source in ('export', 'open')),
    exported_at timestamptz not null,
    loaded_at   timestamptz not null,
    seconds     double precision not null,
    release     text not null,
    primary key (table_name, partition)
);

-- Dimensions: what our own rules say of a day, a feed, a ticker. Each load renews them.
create table warehouse.days (
    day                date primary key,
    session            date not null,
    previous_session   date not null,
    front              text not null,
    front_before       text not null,
    index_front        text not null,
    index_front_before text not null,
    front_tenor        text not null
);
create table warehouse.feeds (
    feed   text primary key,
    rank   integer not null,
    legacy boolean not null
);
create table warehouse.assets (
    asset          text primary key,
    kind           text not null,
    underlying     text,
    option_right   text,
    expiry_month   integer,
    instrument     text,
    contract_month text
);
create index assets_of_instrument on warehouse.assets (instrument);
