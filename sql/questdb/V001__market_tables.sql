-- The seven market tables, the captures, and the ledgers of loads and revisions (FORMATS §2).
-- Each statement may run twice: an apply that was cut off is simply run again.

CREATE TABLE IF NOT EXISTS b3_snapshots (
  ts                    TIMESTAMP,
  coleta_data           DATE,
  coleta_hora           VARCHAR,
  instrument            SYMBOL,
  contract_month        SYMBOL,
  price_settlement      DOUBLE,
  price_settlement_prev DOUBLE,
  status                SYMBOL,
  source                SYMBOL,
  ingested_at           TIMESTAMP,
  feed                  SYMBOL,
  load_id               LONG
) TIMESTAMP(ts) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts, instrument, contract_month, feed);

CREATE TABLE IF NOT EXISTS b3_indicators (
  ts            TIMESTAMP,
  name          SYMBOL,
  value         DOUBLE,
  display_value VARCHAR,
  updated_at    DATE,
  ingested_at   TIMESTAMP,
  feed          SYMBOL,
  load_id       LONG
) TIMESTAMP(ts) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts, name, feed);

CREATE TABLE IF NOT EXISTS b3_vol_surface (
  ts             TIMESTAMP,
  contract_month SYMBOL,
  delta_bucket   SYMBOL,
  volatility     DOUBLE,
  updated_at     DATE,
  ingested_at    TIMESTAMP,
  feed           SYMBOL,
  load_id        LONG
) TIMESTAMP(ts) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts, contract_month, delta_bucket, feed);

CREATE TABLE IF NOT EXISTS b3_gamma_levels (
  ts          TIMESTAMP,
  instrument  SYMBOL,
  call_wall   DOUBLE,
  put_wall    DOUBLE,
  gamma_flip  DOUBLE,
  raw_payload VARCHAR,
  status      SYMBOL,
  ingested_at TIMESTAMP,
  feed        SYMBOL,
  load_id     LONG
) TIMESTAMP(ts) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts, instrument, feed);

CREATE TABLE IF NOT EXISTS b3_adjustments (
  ts               TIMESTAMP,
  instrument       SYMBOL,
  contract_month   SYMBOL,
  price_settlement DOUBLE,
  price_prev       DOUBLE,
  status           SYMBOL,
  trade_date       DATE,
  settlement_rate  DOUBLE,
  open_interest    LONG,
  ingested_at      TIMESTAMP,
  feed             SYMBOL,
  load_id          LONG
) TIMESTAMP(ts) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts, instrument, contract_month, feed);

CREATE TABLE IF NOT EXISTS b3_indicators_daily (
  ts          TIMESTAMP,
  indicator   SYMBOL,
  value       DOUBLE,
  ingested_at TIMESTAMP,
  feed        SYMBOL,
  load_id     LONG
) TIMESTAMP(ts) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts, indicator, feed);

CREATE TABLE IF NOT EXISTS b3_dxy_ticks (
  ts          TIMESTAMP,
  bucket      SYMBOL,
  value       DOUBLE,
  status      SYMBOL,
  provider    SYMBOL,
  ingested_at TIMESTAMP,
  feed        SYMBOL,
  load_id     LONG
) TIMESTAMP(ts) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts, bucket, feed);

CREATE TABLE IF NOT EXISTS b3_captures (
  ts          TIMESTAMP,
  endpoint    SYMBOL,
  payload     VARCHAR,
  sha256      VARCHAR,
  ingested_at TIMESTAMP,
  feed        SYMBOL,
  load_id     LONG
) TIMESTAMP(ts) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts, endpoint, feed);

CREATE TABLE IF NOT EXISTS b3_loads (
  ts         TIMESTAMP,
  load_id    LONG,
  run_id     VARCHAR,
  table_name SYMBOL,
  feed       SYMBOL,
  file       VARCHAR,
  sha256     VARCHAR,
  candidates LONG,
  loaded     LONG,
  rejected   LONG,
  duplicate  LONG,
  absent     LONG,
  revised    LONG,
  bytes      LONG,
  seconds    DOUBLE,
  outcome    SYMBOL
) TIMESTAMP(ts) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts, load_id);

CREATE TABLE IF NOT EXISTS b3_revisions (
  ts          TIMESTAMP,
  table_name  SYMBOL,
  row_key     VARCHAR,
  column_name SYMBOL,
  old_value   VARCHAR,
  new_value   VARCHAR,
  load_id     LONG
) TIMESTAMP(ts) PARTITION BY MONTH WAL
DEDUP UPSERT KEYS(ts, table_name, row_key, column_name, load_id);
