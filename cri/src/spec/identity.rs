//! Who a container's program is.
