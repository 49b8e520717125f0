from b3_pipeline_tests.lowdb.test_stores import *  # noqa: F403
