"""Tables and figures from saved results; nothing is recomputed here."""
