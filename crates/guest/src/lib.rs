//! The built-in guests: bare-metal programs that test a move from the inside
