"""A backup has the home's settings, and none of their secrets."""

from __future__ import annotations

import tomllib

import pytest

from b3_pipeline.backup.redacting import SecretsNotFound, secret_settings, without_secrets

COMMENTS = "its comments, which may quote secrets"


def test_every_secret_is_taken_out_and_the_rest_stays() -> None:
    secret = {name: f"hidden-{number}" for number, name in enumerate(sorted(secret_settings()))}
    lines = [f'{name} = "{value}"' for name, value in secret.items()]
    text = "\n".join(
        ["# ours", "alert_group_s = 7", *lines, 'backups_url = "s3://b/p"', "[[known_gaps]]", 'feed = "x"']
    )
    clean, left_out = without_secrets(text)
    assert set(left_out) == {f"{name}, a secret" for name in secret} | {COMMENTS}
    assert set(secret) >= {"postgres_dsn", "token_key", "alert_slack_url", "gamma_secret"}
    assert not any(value in clean for value in secret.values())
    rest = tomllib.loads(clean)
    assert rest == {"alert_group_s": 7, "backups_url": "s3://b/p", "known_gaps": [{"feed": "x"}]}
    assert "# ours" not in clean


def test_a_secret_in_a_comment_is_left_out_too_and_what_looks_like_a_comment_in_a_value_stays() -> None:
    lines = (
        "# gamma_secret = 'hidden-1'",
        "alert_group_s = 7 # was at https://hooks.example/hidden-2",
        'legacy_dir = "/a#b" # "hidden-3',
        "backups_url = 'c:\\#d'#'hidden-4",
        "[[known_gaps]]",
        'reason = """one # two',
        '# three \\""" four""" # hidden-5',
    )
    text = "\n".join(lines)
    clean, left_out = without_secrets(text)
    assert "hidden" not in clean
    assert left_out == (COMMENTS,)
    assert tomllib.loads(clean) == tomllib.loads(text)
    assert tomllib.loads(clean)["known_gaps"] == [{"reason": 'one # two\n# three """ four'}]
    assert without_secrets("alert_group_s = 7\n") == ("alert_group_s = 7\n", ())


def test_a_secret_that_cannot_be_told_from_the_rest_stops_the_backup() -> None:
    with pytest.raises(SecretsNotFound):
        without_secrets('gamma_secret = """one\ntwo"""\n')
