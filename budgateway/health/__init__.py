"""Whether upstreams are well: they are asked, and what they say is put where every worker sees it."""
