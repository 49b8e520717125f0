-- What a reader wants of TP-Capital's tables: signals that nobody deleted, and the current row of each bot and channel
-- (FORMATS §2, DESIGN §5). A bot or channel of status `deleted` is shown: else nobody could tell it from one never seen.

CREATE OR REPLACE VIEW tp_capital_signals_active AS (
  SELECT s.* FROM tp_capital_signals s
  LEFT JOIN tp_capital_signals_deleted d
    ON s.ts = d.ts AND s.channel = d.channel AND s.signal_type = d.signal_type AND s.asset = d.asset
  WHERE d.deleted_at IS NULL
);

CREATE OR REPLACE VIEW telegram_bots_current AS (
  SELECT * FROM telegram_bots LATEST ON updated_at PARTITION BY id
);

CREATE OR REPLACE VIEW telegram_channels_current AS (
  SELECT * FROM telegram_channels LATEST ON updated_at PARTITION BY id
);
