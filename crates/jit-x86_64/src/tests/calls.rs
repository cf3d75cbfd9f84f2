//! Helper calls, subprograms, callbacks, exceptions, packet loads, probing loads, arenas, inline lookups.
