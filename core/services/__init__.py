"""Use cases: functions that open the transactions."""
