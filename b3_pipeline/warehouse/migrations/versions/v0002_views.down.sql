drop view warehouse.daily_dxy, warehouse.daily_gamma, warehouse.daily_summary, warehouse.signals_known,
    warehouse.signal_surface, warehouse.signal_gamma, warehouse.signal_settlements, warehouse.signals;
drop function warehouse.indicator_at, warehouse.dxy_at, warehouse.surface_at, warehouse.gamma_at,
    warehouse.front_settlement_at, warehouse.settlement_at, warehouse.captured_session, warehouse.local_day;
