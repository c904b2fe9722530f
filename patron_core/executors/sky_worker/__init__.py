"""All that imports `sky`. Importing it takes 2 s and 160 MB, and any call may hang, so it runs in processes of its own:

    python -m patron_core.executors.sky_worker            answers until whoever asks is gone (skypilot_client)
    python -m patron_core.executors.sky_worker.catalog    prints prices and ends (patron_core.machines.catalog)

Nothing else of Patron imports this package.
"""
