from b3_pipeline.questdb.client import QuestDB
import psycopg
def test_q(questdb):
    with QuestDB(questdb) as db: assert db.query("select 1") 
def test_p(postgres):
    with psycopg.connect(postgres) as c: assert c.execute("select 1").fetchone()==(1,)
