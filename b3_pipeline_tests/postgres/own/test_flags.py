from b3_pipeline_tests.postgres.test_flags import *  # noqa: F403
