-- TP-Capital's signals, their tombstones, and the versions of its bots and channels (FORMATS §2).

CREATE TABLE IF NOT EXISTS tp_capital_signals (
  ts           TIMESTAMP,
  channel      SYMBOL,
  signal_type  SYMBOL,
  asset        SYMBOL,
  buy_min      DOUBLE,
  buy_max      DOUBLE,
  target_1     DOUBLE,
  target_2     DOUBLE,
  target_final DOUBLE,
  stop         DOUBLE,
  raw_message  VARCHAR,
  source       SYMBOL,
  ingested_at  TIMESTAMP
) TIMESTAMP(ts) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts, channel, signal_type, asset);

CREATE TABLE IF NOT EXISTS tp_capital_signals_deleted (
  ts           TIMESTAMP,
  channel      SYMBOL,
  signal_type  SYMBOL,
  asset        SYMBOL,
  buy_min      DOUBLE,
  buy_max      DOUBLE,
  target_1     DOUBLE,
  target_2     DOUBLE,
  target_final DOUBLE,
  stop         DOUBLE,
  raw_message  VARCHAR,
  source       SYMBOL,
  ingested_at  TIMESTAMP,
  deleted_at   TIMESTAMP
) TIMESTAMP(ts) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(ts, channel, signal_type, asset);

CREATE TABLE IF NOT EXISTS telegram_bots (
  id          SYMBOL,
  username    SYMBOL,
  token       VARCHAR,
  bot_type    SYMBOL,
  description VARCHAR,
  status      SYMBOL,
  created_at  TIMESTAMP,
  updated_at  TIMESTAMP
) TIMESTAMP(updated_at) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(updated_at, id);

CREATE TABLE IF NOT EXISTS telegram_channels (
  id           SYMBOL,
  label        SYMBOL,
  channel_id   LONG,
  channel_type SYMBOL,
  description  VARCHAR,
  status       SYMBOL,
  signal_count LONG,
  last_signal  TIMESTAMP,
  created_at   TIMESTAMP,
  updated_at   TIMESTAMP
) TIMESTAMP(updated_at) PARTITION BY DAY WAL
DEDUP UPSERT KEYS(updated_at, id);
