"""`python -m b3_pipeline` is `b3`."""

from b3_pipeline.cli import main

if __name__ == "__main__":
    main()
