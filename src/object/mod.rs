//! Lunasa Data Objects: reference-counted pieces of network memory with a header, metadata and data.

mod builder;
mod end;
mod handle;
mod head;
mod ldo;
mod life;
mod list;
mod look;
mod parts;
mod pinned;
mod region;
mod section;
#[cfg(test)]
mod tests;
mod types;
mod user;

pub use builder::ObjectBuilder;
pub(crate) use handle::Part;
pub use handle::RemoteHandle;
pub(crate) use head::{HEAD, Head, LOCAL, choose_secret};
pub use ldo::Ldo;
pub use list::{LeakGroup, LeakReport};
pub(crate) use list::{check, leaks, list};
pub(crate) use look::{Selection, block_maps, dump};
pub(crate) use pinned::PinnedObject;
pub use region::UserRegion;
pub use section::{Section, Segment, Segments};
pub use types::TypeId;
pub use user::UserMemory;

const _: () = assert!(HEAD == crate::trace::HEADERS, "traces count an object's headers");
