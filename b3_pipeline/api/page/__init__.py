"""The page that the desk looks at: server-rendered, in Portuguese, fed by the overview."""
