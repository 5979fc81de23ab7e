//! Words shared by host and guest.
