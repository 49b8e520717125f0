from b3_pipeline_tests.postgres.test_vault import *  # noqa: F403
