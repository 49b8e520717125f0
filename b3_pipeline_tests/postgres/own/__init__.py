"""Parts of the suite once more, as the owner of a database on a server of one's own: the same must hold there."""
