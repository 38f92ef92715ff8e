//! Network memory for MPI applications.

mod bootstrap;
mod comm;
pub mod config;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
mod instance;
mod manager;
pub mod memory;
mod node_id;
mod object;
mod pool;
mod registrar;
pub mod snapshot;
pub mod status;
mod sync;
pub mod topology;
pub mod trace;
mod transfer;
mod verbs;

pub use config::Config;
pub use error::{Error, HandleFault, Result};
pub use instance::Lunasa;
pub use node_id::NodeId;
pub use object::{
    Ldo, LeakGroup, LeakReport, ObjectBuilder, RemoteHandle, Section, Segment, Segments, TypeId, UserMemory, UserRegion,
};
pub use pool::Registration;
pub use registrar::{CallbackRegistrar, HostRegistrar, Region, RegionKeys, Registrar, VerbsRegistrar};
pub use transfer::{Request, View, Waited};
