"""What comes in: the survey of a folder of TP-Capital's exports, its tokens sealed."""

from __future__ import annotations

from pathlib import Path

from b3_pipeline.loading.payloads import Found, require_folder, survey
from b3_pipeline.parsing.kinds import TP_KINDS
from b3_pipeline.postgres.vault import open_vault
from b3_pipeline.signals.tokens import Sealer, token_keys


def survey_signals(folder: Path, home: Path, postgres_dsn: str) -> list[Found]:
    """The files of a folder as `survey` gives them, without a token: those are in the vault by then.

    Raises UsageError when the folder is none or the token key is wrong, VaultError when tokens cannot be kept.
    """
    require_folder(folder, TP_KINDS)
    with open_vault(postgres_dsn, lambda: token_keys(home)) as vault:
        return survey(folder, TP_KINDS, Sealer(vault))
