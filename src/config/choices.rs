//! The choices that a key can offer, as enums that know their names in TOML.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares an enum whose variants are written in TOML by the names given here.
macro_rules! choices {
    ($($(#[$about:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal,)+ })+) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$note])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// The names in TOML, in the order of the variants.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
        }

        /// Writes the name in TOML.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self {
                    $(Self::$variant => $text,)+
                })
            }
        }
    )+};
}

choices! {
    /// A memory manager.
    ManagerKind {
        /// Thread-caching, from blocks.
        Tcmalloc = "tcmalloc",
        /// The C library's `malloc`.
        Malloc = "malloc",
    }

    /// What registers memory. A registrar of the program's own is given in code.
    RegistrarKind {
        /// The best one this host has.
        Auto = "auto",
        /// No device: keys are issued and checked by Lunasa itself.
        Host = "host",
        /// A real RDMA device.
        Verbs = "verbs",
    }

    /// What an eager allocation does when the registration of more memory is refused.
    WhenRefused {
        /// It is an error.
        Error = "error",
        /// It comes from the lazy pool: unregistered, until a handle is asked for.
        Lazy = "lazy",
    }

    /// A route by which bytes may reach a peer.
    RouteKind {
        /// The rank itself.
        SelfRank = "self",
        /// A peer on the same host, whose block is mapped.
        Shm = "shm",
        /// RDMA, where both sides have a device.
        Verbs = "verbs",
        /// Messages, served by the peer's progress.
        Mpi = "mpi",
    }

    /// Who serves the requests of the `mpi` route.
    ProgressKind {
        /// A thread when MPI gives THREAD_MULTIPLE, else calls.
        Auto = "auto",
        /// A thread of its own; the start fails when MPI does not allow it.
        Thread = "thread",
        /// Only calls of Lunasa.
        Calls = "calls",
    }

    /// Where blocks are placed.
    NumaPolicy {
        /// On the NUMA node near the rank's cores.
        Local = "local",
        /// Page by page on all nodes with memory that the rank may use.
        Interleave = "interleave",
        /// Each pool once per node with memory, and an allocation takes that near its thread, or the one it names.
        PerNode = "per-node",
        /// Wherever the system puts them.
        None = "none",
    }

    /// The use of reserved or transparent huge pages for blocks.
    HugePages {
        /// When there are some.
        Auto = "auto",
        /// Never.
        Off = "off",
        /// Always; a block that cannot have them is an error.
        Require = "require",
    }

    /// What the endpoint listens on.
    ListenKind {
        /// A port.
        Port = "port",
        /// A socket in the file system that only its user may connect to.
        Socket = "socket",
    }

    /// Who may ask the endpoint.
    AccessKind {
        /// Whoever presents the job's token.
        Token = "token",
        /// Everybody who reaches it.
        Open = "open",
    }
}
