"""feature: what a file defines: expressions, checked and put in order. They describe; nothing here holds state."""
