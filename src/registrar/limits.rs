//! What limits further registrations, before the first failure.

use super::{Budget, Registrar};
use crate::memory::{Pins, cgroup_limit};
use crate::snapshot::{LimitInfo, RegistrationLimits};

/// The limits of the process, the host and the registrar. One that pins nothing leaves only those on memory itself.
pub(super) fn limits(registrar: &dyn Registrar, budget: Option<&Budget>) -> RegistrationLimits {
    let limit = |name: &str, (bytes, left_bytes)| LimitInfo { name: name.to_owned(), bytes, left_bytes };
    let memlock = if registrar.pins() { Pins::read().left() } else { None };
    let bytes = [
        memlock.map(|values| limit("RLIMIT_MEMLOCK", values)),
        budget.and_then(Budget::left).map(|values| limit("lunasa.pin_budget", values)),
        cgroup_limit().map(|(file, bytes, left)| limit(&file, (bytes, left))),
    ];
    let most = registrar.limits();
    RegistrationLimits {
        bytes: bytes.into_iter().flatten().collect(),
        region_bytes: most.region_bytes,
        regions: most.regions,
    }
}
