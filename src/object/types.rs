//! Types of objects: a number that travels in the header, and its name if the program gave one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

static NAMES: RwLock<BTreeMap<u32, &'static str>> = RwLock::new(BTreeMap::new());

/// The type of an object, as the program numbers its types. 0 when it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TypeId(pub u32);

impl TypeId {
    /// The type of this name: its number is the 32-bit FNV-1a hash of the name, the same on every rank. The name is shown
    /// on pages and in the leak report of this process.
    ///
    /// ```
    /// let particles = lunasa::TypeId::named("particles");
    /// assert_eq!(particles, lunasa::TypeId::named("particles"));
    /// assert_eq!(particles.name(), Some("particles"));
    /// ```
    pub fn named(name: &'static str) -> Self {
        let hash = name.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        if Self(hash).name().is_none() {
            NAMES.write().unwrap_or_else(PoisonError::into_inner).insert(hash, name);
        }
        Self(hash)
    }

    /// Its name, if it was made by [`TypeId::named`] in this process.
    pub fn name(self) -> Option<&'static str> {
        NAMES.read().unwrap_or_else(PoisonError::into_inner).get(&self.0).copied()
    }
}

impl From<u32> for TypeId {
    fn from(number: u32) -> Self {
        Self(number)
    }
}

impl From<&'static str> for TypeId {
    fn from(name: &'static str) -> Self {
        Self::named(name)
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}
