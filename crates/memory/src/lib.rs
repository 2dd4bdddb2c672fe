//! Guest RAM: regions on a memfd, page sets, what was touched
