from b3_pipeline_tests.postgres.test_mismatches import *  # noqa: F403
