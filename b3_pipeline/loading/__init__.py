"""What a load is: accounting, contract check, writer, revisions, quarantine."""
