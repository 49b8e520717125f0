"""A backup has the home's settings, and none of their secrets."""

from __future__ import annotations

import tomllib

import pytest

from b3_pipeline.backup.redacting import SecretsNotFound, secret_settings, without_secrets


def test_every_secret_is_taken_out_and_the_rest_stays() -> None:
    secret = {name: f"hidden-{number}" for number, name in enumerate(sorted(secret_settings()))}
    lines = [f'{name} = "{value}"' for name, value in secret.items()]
    text = "\n".join(
        ["# ours", "alert_group_s = 7", *lines, 'backups_url = "s3://b/p"', "[[known_gaps]]", 'feed = "x"']
    )
    clean, left_out = without_secrets(text)
    assert set(left_out) == set(secret) >= {"postgres_dsn", "token_key", "alert_slack_url", "gamma_secret"}
    assert not any(value in clean for value in secret.values())
    rest = tomllib.loads(clean)
    assert rest == {"alert_group_s": 7, "backups_url": "s3://b/p", "known_gaps": [{"feed": "x"}]}
    assert clean.startswith("# ours\n")


def test_a_secret_that_cannot_be_told_from_the_rest_stops_the_backup() -> None:
    with pytest.raises(SecretsNotFound):
        without_secrets('gamma_secret = """one\ntwo"""\n')
