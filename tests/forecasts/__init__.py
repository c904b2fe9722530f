"""Published runs, each predicted without itself: `python -m tests.forecasts` prints the table."""
