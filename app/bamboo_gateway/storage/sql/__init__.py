"""Sessions in a SQL database.

`SqlStore` is the store: it prepares commits, shares them out to transactions, and has every
statement that is the same for all databases. `Database` is what differs: how a database is opened,
how many commits become durable in one transaction, and what its errors mean.

* `tables` has the rows: a log is one row for each event, and rows of its own for what is searched
  in it (marks, notes), so no log is ever read as a whole.
* `prepared` makes rows of commits.
* `writer` is the thread of the group commit.
"""
