"""Reports: pages, tables and figures drawn from records on disk.  Reads only; nothing is measured here."""
