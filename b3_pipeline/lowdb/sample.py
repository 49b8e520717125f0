"""Synthetic LowDB files for newcomers: a small idea bank and its documentation, so that the pages have something to show."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from b3_pipeline.lowdb.documents import written
from b3_pipeline.lowdb.model import FILE_NAMES
from b3_pipeline.lowdb.rules import moment_text

#: Title, description, category, priority, status and tags of each, the oldest first.
_IDEAS: tuple[tuple[str, str, str, str, str, tuple[str, ...]], ...] = (
    (
        "Histórico do DXY em banco de dados",
        "O gráfico do DXY fica em um CSV que cresce sem índice. Em uma tabela particionada por pregão, uma consulta de "
        "um ano responde em milissegundos.",
        "banco-dados",
        "critical",
        "completed",
        ("dxy", "questdb", "histórico"),
    ),
    (
        "Alerta quando a coleta para",
        "Se o site da B3 ficar mais de cinco minutos sem dado novo durante o pregão, avisar a mesa no Telegram.",
        "coleta-dados",
        "critical",
        "completed",
        ("alerta", "coleta", "telegram"),
    ),
    (
        "Superfície de volatilidade por delta",
        "Mostrar o sorriso dos vencimentos lado a lado, com o pregão anterior em cinza.",
        "dashboard",
        "high",
        "completed",
        ("volatilidade", "opções", "painel"),
    ),
    (
        "Backup diário com restauração testada",
        "Uma cópia só vale depois de restaurada: restaurar toda noite em um diretório vazio e comparar as contagens.",
        "gestao-riscos",
        "high",
        "completed",
        ("backup", "restauração"),
    ),
    (
        "Ajustes do DI no painel",
        "A curva de ajustes do DI1 com a variação em pontos desde o pregão anterior.",
        "dashboard",
        "medium",
        "in-progress",
        ("di1", "ajustes", "curva"),
    ),
    (
        "Replay de um pregão",
        "Repetir um pregão gravado em velocidade acelerada para testar sinais sem risco.",
        "analise-dados",
        "high",
        "in-progress",
        ("replay", "sinais"),
    ),
    (
        "Migrar o banco de ideias para PostgreSQL",
        "Os dois arquivos do LowDB em tabelas, com histórico de quem mudou o quê e busca por palavras.",
        "banco-dados",
        "high",
        "in-progress",
        ("postgresql", "lowdb", "migração"),
    ),
    (
        "Níveis de gamma no gráfico",
        "Call wall e put wall como linhas horizontais no gráfico do índice.",
        "analise-dados",
        "medium",
        "review",
        ("gamma", "opções"),
    ),
    (
        "Sinais da TP Capital com o preço do momento",
        "Ao lado de cada sinal, o preço do ativo quando ele chegou: assim se mede o que o sinal rendeu.",
        "analise-dados",
        "high",
        "review",
        ("sinais", "tp-capital"),
    ),
    (
        "Limite de exposição por vencimento",
        "Avisar quando a posição em um vencimento passar do limite combinado.",
        "gestao-riscos",
        "critical",
        "review",
        ("risco", "vencimento", "alerta"),
    ),
    (
        "Manual do plantão",
        "Uma página por alerta: o que significa, o que olhar primeiro, quando acordar alguém.",
        "documentacao",
        "high",
        "new",
        ("alerta", "manual"),
    ),
    (
        "Glossário das colunas",
        "De onde vem cada coluna, a unidade e o fuso: metade das perguntas da mesa é sobre isso.",
        "documentacao",
        "medium",
        "new",
        ("manual", "tabelas"),
    ),
    (
        "Comparar a PTAX com o DXY",
        "Correlação de trinta pregões entre a PTAX e o DXY, com aviso quando ela muda de sinal.",
        "analise-dados",
        "low",
        "new",
        ("ptax", "dxy"),
    ),
    (
        "Coletar o calendário econômico",
        "Payroll, CPI e Copom na linha do tempo do painel, para não ser pego de surpresa.",
        "coleta-dados",
        "medium",
        "new",
        ("coleta", "calendário"),
    ),
    (
        "Tema claro para a TV da sala",
        "O painel escuro some com o reflexo da janela à tarde.",
        "dashboard",
        "low",
        "new",
        ("painel",),
    ),
    (
        "Planilha compartilhada de posições",
        "Substituída pelo limite por vencimento, que avisa sozinho.",
        "gestao-riscos",
        "low",
        "rejected",
        ("risco",),
    ),
)
_SYSTEMS = (
    ("Painel e API", "API", 8000, "online", "#2f9e6e", "chart"),
    ("Dagster", "DAG", 3000, "online", "#5b6ee1", "server"),
    ("QuestDB", "QDB", 9000, "online", "#c2417a", "server"),
    ("PostgreSQL", "PG", 5432, "online", "#336791", "server"),
    ("Servidor JSON antigo", "JSON", 3001, "offline", "#8a8f98", "server"),
    ("Documentação da mesa", "DOC", 3005, "maintenance", "#c98a2b", "book"),
)
_PAGES = (
    ("Como ler a superfície de volatilidade", "analise-dados", "https://example.org/superficie", "superficie.pdf"),
    ("Roteiro da abertura", "documentacao", "https://example.org/abertura", "abertura.pdf"),
    ("O que fazer quando a coleta para", "gestao-riscos", "https://example.org/coleta", "coleta.pdf"),
)


def make_lowdb_sample(folder: Path, now: datetime) -> list[Path]:
    """Writes both files into a new folder, which is there whole or not at all, the newest idea a few hours old at `now` (aware UTC). Returns them."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    documents = dict(zip(FILE_NAMES, (_bank(now), _documentation(now)), strict=True))
    for name, document in documents.items():
        (draft / name).write_bytes(written(document))
    draft.rename(folder)
    return [folder / name for name in documents]


def _bank(now: datetime) -> Mapping[str, Any]:
    ideas = [_idea(number, now, *idea) for number, idea in enumerate(_IDEAS, 1)]
    return {"ideas": ideas}


def _idea(
    number: int,
    now: datetime,
    title: str,
    description: str,
    category: str,
    priority: str,
    status: str,
    tags: tuple[str, ...],
) -> Mapping[str, Any]:
    created = now.replace(microsecond=0) - timedelta(days=4 * (len(_IDEAS) - number), hours=5, minutes=7 * number)
    changed = None if status == "new" else moment_text(created + timedelta(hours=4))
    named = {"title": title, "description": description, "category": category, "priority": priority, "status": status}
    return {"id": str(number), **named, "tags": list(tags), "createdAt": moment_text(created), "updatedAt": changed}


def _documentation(now: datetime) -> Mapping[str, Any]:
    names = ("name", "shortName", "port", "status", "color", "icon")
    systems = [{"id": n, **dict(zip(names, system, strict=True))} for n, system in enumerate(_SYSTEMS, 1)]
    ideas, links, files = [], [], []
    for n, (title, category, url, file) in enumerate(_PAGES, 1):
        ideas.append(_idea(n, now, title, f"{title}: passo a passo.", category, "medium", "completed", ("manual",)))
        links.append({"id": n, "idea_id": str(n), "url": url, "title": title})
        named = {"filename": f"{n:016x}.pdf", "original_name": file, "mime_type": "application/pdf"}
        files.append({"id": n, "idea_id": str(n), **named, "size": 48_000 + n * 1_024})
    following = len(_PAGES) + 1
    counters = {
        "nextId": following,
        "nextLinkId": following,
        "nextFileId": following,
        "nextSystemId": len(_SYSTEMS) + 1,
    }
    return {"systems": systems, "ideas": ideas, "links": links, "files": files, **counters}
