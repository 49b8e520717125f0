drop table warehouse.assets, warehouse.feeds, warehouse.days, warehouse.loads;
drop table warehouse.tp_capital_signals;
drop table warehouse.tp_capital_signals_deleted;
drop table warehouse.b3_adjustments;
drop table warehouse.b3_indicators_daily;
drop table warehouse.b3_vol_surface;
drop table warehouse.b3_gamma_levels;
drop table warehouse.b3_dxy_ticks;
drop table warehouse.b3_snapshots;
