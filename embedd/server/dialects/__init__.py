"""The APIs of services and programs: each is a table of routes with pure translations."""
