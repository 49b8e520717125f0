"""An example of each document that is answered, for the reference: what the routes answer, cut down to one of each kind."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from b3_pipeline.api.v1 import models

SIGNAL: dict[str, Any] = {
    "at": "2025-10-13T13:41:07Z",
    "channel": "sinais",
    "signal_type": "Swing Trade",
    "asset": "PETRJ370",
    "buy_min": 0.41,
    "buy_max": 0.45,
    "target_1": 0.52,
    "target_2": 0.6,
    "target_final": 0.75,
    "stop": 0.3,
    "raw_message": "PETRJ370 0,41 a 0,45",
    "source": "telegram",
}
EXAMPLES: dict[type[BaseModel], dict[str, Any]] = {
    models.Overview: {
        "at": "2025-10-14T15:00:00Z",
        "session": "2025-10-14",
        "phase": "legacy",
        "kpis": [
            {
                "id": "dol_settlement",
                "label": "DOL ajuste",
                "value": 5537.414,
                "unit": "BRL/1000 USD",
                "decimals": 3,
                "previous": 5528.26,
                "change": 9.154,
                "contract_month": "X25",
                "at": "2025-10-13T22:30:00Z",
                "session": "2025-10-13",
                "age_s": 59400.0,
                "feed": "b3_sprd",
                "fresh": True,
                "due": "2025-10-14T23:30:00Z",
            }
        ],
        "di_curve": {
            "session": "2025-10-13",
            "points": [{"contract_month": "X25", "expiry": "2025-11-03", "rate": 13.546}],
        },
        "di_curve_before": {
            "session": "2025-10-10",
            "points": [{"contract_month": "X25", "expiry": "2025-11-03", "rate": 14.9061}],
        },
        "settlements": [
            {
                "instrument": "DI1",
                "contract_month": "X25",
                "price": 99340.88,
                "previous": 99240.95,
                "change": 99.93,
                "value_per_contract": 99.93,
                "rate": 13.546,
                "open_interest": 194561,
                "session": "2025-10-13",
                "at": "2025-10-13T22:30:00Z",
                "feed": "b3_sprd",
            }
        ],
        "surface": {
            "at": "2025-10-13T22:00:00Z",
            "updated_at": "2025-10-13",
            "feed": "b3_vol_xlsx",
            "tenors": ["nov-25", "dez-25"],
            "deltas": [1, 5, 10, 25],
            "values": [[21.16, 18.01, 17.25, 14.61], [21.27, 18.1, 17.34, 14.69]],
        },
        "gamma": [
            {
                "instrument": "ES_SP500",
                "at": "2025-10-13T12:05:12Z",
                "call_wall": 6700.0,
                "put_wall": 6500.0,
                "gamma_flip": 6628.5,
                "status": "sucesso",
                "feed": "legacy_capture",
            }
        ],
        "dxy": {
            "session": "2025-10-14",
            "points": [{"at": "2025-10-14T11:50:00Z", "bucket": "dxy_08h50", "value": -0.036}],
        },
        "datasets": [
            {
                "table": "b3_adjustments",
                "label": "Ajustes",
                "rows": 1582,
                "newest": "2025-10-13T22:30:00Z",
                "age_s": 59400.0,
                "due": "2025-10-14T23:30:00Z",
                "fresh": True,
                "source": "B3, boletim de preços, coletor legado",
                "checks_passed": 9,
                "checks_failed": ["gaps"],
                "dagster_url": "http://127.0.0.1:8801/assets/b3_adjustments",
            }
        ],
        "mismatches": 0,
        "signals": [
            {
                "at": "2025-10-14T13:05:40Z",
                "channel": "TP CAPITAL | OPCOES",
                "signal_type": "Day Trade",
                "asset": "PETRK340",
                "kind": "option",
                "buy_min": 1.52,
                "buy_max": 1.63,
                "targets": [2.13, 3.04],
                "stop": 0.91,
                "settlements": [
                    {
                        "instrument": "DOL",
                        "contract_month": "X25",
                        "price": 5537.414,
                        "session": "2025-10-13",
                        "at": "2025-10-13T22:30:00Z",
                        "feed": "b3_sprd",
                    }
                ],
                "gamma": [
                    {
                        "instrument": "ES_SP500",
                        "call_wall": 6700.0,
                        "put_wall": 6500.0,
                        "gamma_flip": 6628.5,
                        "at": "2025-10-14T12:05:12Z",
                        "feed": "gammalevels",
                    }
                ],
                "volatility": {"tenor": "nov-25", "value": 12.76, "at": "2025-10-13T22:00:00Z", "feed": "b3_vol_xlsx"},
            }
        ],
        "dagster_url": "http://127.0.0.1:8801",
    },
    models.Snapshots: {
        "items": [
            {
                "at": "2025-10-13T12:00:32Z",
                "session": "2025-10-10",
                "instrument": "DDI",
                "contract_month": "X25",
                "price": 102356.24,
                "previous": 102619.95,
                "change": -263.71,
                "status": "sucesso",
                "source": "B3",
                "feed": "legacy_capture",
            }
        ],
        "next_cursor": None,
    },
    models.Indicators: {
        "items": [
            {
                "at": "2025-10-13T12:00:32Z",
                "name": "TAXA SELIC - (a.a.)",
                "indicator": "taxa_selic",
                "value": 14.9,
                "display_value": "14,90",
                "updated_at": "2025-10-13",
                "feed": "legacy_capture",
            }
        ],
        "next_cursor": None,
    },
    models.DailyIndicators: {
        "items": [{"at": "2025-10-13T23:00:00Z", "indicator": "taxa_selic", "value": 14.9, "feed": "b3_indicators"}],
        "next_cursor": "Ntilig7tuU-xWzE3NTc1MDYxNDcwMDAwMDAsImRvbGFyX2N1cG9tX2xpbXBvIl0",
    },
    models.Smiles: {
        "items": [
            {
                "at": "2025-10-13T22:00:00Z",
                "updated_at": "2025-10-13",
                "tenor": "nov-25",
                "contract_month": "X25",
                "deltas": [1, 5, 10, 25],
                "volatilities": [21.16, 18.01, 17.25, 14.61],
                "feed": "b3_vol_xlsx",
            }
        ],
        "next_cursor": "uBeji-I1LpKUWzE3NTYxMzQ0MzAwMDAwMDAsMjAyNTEwLCIyIGxlZ2FjeV9jc3YiXQ",
    },
    models.GammaLevels: {
        "items": [
            {
                "instrument": "ES_SP500",
                "at": "2025-10-13T12:05:12Z",
                "call_wall": 6700.0,
                "put_wall": 6500.0,
                "gamma_flip": 6628.5,
                "status": "sucesso",
                "feed": "legacy_capture",
            }
        ],
        "next_cursor": None,
    },
    models.Adjustments: {
        "items": [
            {
                "instrument": "DOL",
                "contract_month": "X25",
                "price": 5537.414,
                "previous": 5528.26,
                "change": 9.154,
                "value_per_contract": 457.7,
                "rate": None,
                "open_interest": 389495,
                "session": "2025-10-13",
                "at": "2025-10-13T22:30:00Z",
                "feed": "b3_sprd",
                "status": "ajustado",
            }
        ],
        "next_cursor": "5EZHh53eTIKzWzE3NjAzOTQ2MDAwMDAwMDAsIkRJMSIsIlYyNyJd",
    },
    models.DxyTicks: {
        "items": [
            {
                "at": "2025-10-14T14:55:00Z",
                "bucket": "dxy_11h55",
                "value": -0.142,
                "status": "sucesso",
                "provider": "yahoo",
                "feed": "yahoo_dxy",
            }
        ],
        "next_cursor": None,
    },
    models.Loads: {
        "items": [
            {
                "at": "2025-10-14T15:00:00Z",
                "load_id": 1760452200000000,
                "run_id": "7f1d2c4a-8e0b-4c55-9a41-0d6f3b2e1c90",
                "table": "b3_snapshots",
                "feed": "legacy_capture",
                "file": "ultimo_dado_20251010_093430.json",
                "sha256": "cae99e89155ac23c9a32cafb9d348bfac6563c3a9c425aff7dd0656717ee4ae2",
                "candidates": 3,
                "loaded": 3,
                "rejected": 0,
                "duplicate": 0,
                "absent": 0,
                "revised": 0,
                "bytes": 1819,
                "seconds": 0.184,
                "outcome": "loaded",
            }
        ],
        "next_cursor": None,
    },
    models.Signals: {"items": [SIGNAL], "next_cursor": None},
    models.Freshness: {
        "at": "2025-10-14T15:00:00Z",
        "tables": [
            {
                "table": "b3_adjustments",
                "label": "Ajustes",
                "rows": 1582,
                "newest": "2025-10-13T22:30:00Z",
                "age_s": 59400.0,
                "due": "2025-10-14T23:30:00Z",
                "fresh": True,
                "source": "B3, boletim de preços, coletor legado",
                "checks_passed": 9,
                "checks_failed": ["gaps"],
                "dagster_url": "http://127.0.0.1:8801/assets/b3_adjustments",
                "feeds": [
                    {
                        "feed": "b3_sprd",
                        "newest": "2025-10-13T22:30:00Z",
                        "expected": "2025-10-13T03:00:00Z",
                        "due": "2025-10-14T23:30:00Z",
                        "fresh": True,
                    }
                ],
            }
        ],
    },
    models.Parity: {
        "phase": "shadow",
        "mismatches": 1,
        "payloads": [
            {
                "id": 17,
                "at": "2025-10-13T12:00:40Z",
                "last_at": "2025-10-13T12:04:40Z",
                "endpoint": "ultimo-dado",
                "count": 3,
                "differences": [{"pointer": "/DOL/preco", "legacy": 5528.504, "ours": 5528.5}],
                "legacy": '{"DOL": {"preco": 5528.504}}',
                "ours": '{"DOL": {"preco": 5528.5}}',
                "ignored_by": [],
                "seen_at": None,
                "seen_by": None,
                "seen_why": None,
            }
        ],
        "captures": [
            {
                "at": "2025-10-13T12:00:32Z",
                "session": "2025-10-10",
                "legacy_sha256": "cae99e89155ac23c9a32cafb9d348bfac6563c3a9c425aff7dd0656717ee4ae2",
                "composed_sha256": "2ea4ee7176560dd7ffa524c9a3c3656cafb843d9bfac23a9c32ca55198e99eac",
                "fields": 40,
                "different": 1,
                "differences": [{"pointer": "/DOL/preco", "legacy": 5528.504, "composed": 5528.5, "kind": "different"}],
            }
        ],
        "checks": [{"table": "b3_adjustments", "check": "parity_legacy_csv", "passed": True}],
        "report": {
            "at": "2025-10-14T01:45:00Z",
            "ok": False,
            "feeds": [
                {
                    "table": "b3_adjustments",
                    "feed": "legacy_csv",
                    "passed": False,
                    "source_keys": 582,
                    "table_keys": 582,
                    "missing": 0,
                    "extra": 0,
                    "different": 1,
                    "rejected": 0,
                    "expired": 0,
                    "partitions": [
                        {
                            "partition": "2025-10-13",
                            "missing": 0,
                            "extra": 0,
                            "different": 1,
                            "rows": [
                                {
                                    "problem": "different",
                                    "ts": "2025-10-13T12:00:00Z",
                                    "instrument": "DOL",
                                    "contract_month": "X25",
                                    "feed": "legacy_csv",
                                    "column": "price_settlement",
                                    "source_value": 5528.504,
                                    "stored_value": 5528.5,
                                    "file": "ajustes_b3.csv",
                                    "line": 194,
                                }
                            ],
                        }
                    ],
                }
            ],
        },
    },
    models.Cutover: {
        "phase": "shadow",
        "since": "2025-10-01T12:00:00Z",
        "who": "desk",
        "why": "both sides compared for a month",
        "stale": False,
        "history": [
            {
                "phase": "shadow",
                "since": "2025-10-01T12:00:00Z",
                "who": "desk",
                "why": "both sides compared for a month",
            }
        ],
        "looked": {
            "at": "2025-10-14T11:00:00Z",
            "to": "active",
            "gates": [
                {
                    "name": "mismatches",
                    "ok": True,
                    "evidence": "No open mismatches of payloads; 3 of 3 legacy routes were compared just now.",
                    "what_to_do": "",
                }
            ],
        },
    },
    models.Health: {
        "status": "ok",
        "at": "2025-10-14T15:00:00Z",
        "version": "0.1.0",
        "phase": "legacy",
        "questdb": True,
        "postgres": True,
    },
}
