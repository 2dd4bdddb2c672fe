//! What it means to save, restore, or refuse to
