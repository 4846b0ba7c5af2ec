# Made from _async/__init__.py by tools/sync_from_async.py. Do not edit: `make clients`.
