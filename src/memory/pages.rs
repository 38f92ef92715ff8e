//! What kind of pages a block may be made of: which huge pages there are, and which of them to try.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};

use super::limits::kib_after;
use super::mapping::page_size;
use crate::config::HugePages;
use crate::error::{Error, Result};
use crate::sizes::bytes;

/// The kind of pages a block got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// The system's ordinary pages.
    Ordinary,
    /// Huge pages that the administrator reserved (hugetlb).
    HugeReserved,
    /// Huge pages that the kernel put together (transparent huge pages of shared memory).
    HugeTransparent,
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ordinary => "ordinary",
            Self::HugeReserved => "huge (reserved)",
            Self::HugeTransparent => "huge (transparent)",
        })
    }
}

/// A kind of pages to try, with their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) kind: PageKind,
    pub(super) size: usize,
}

impl Pages {
    /// The system's ordinary pages.
    pub(super) fn ordinary() -> Self {
        Self { kind: PageKind::Ordinary, size: page_size() }
    }
}

/// The kinds to try for a block `name` of `len` bytes on `node`, best first, never empty; and a word on a better kind that there is too little of.
///
/// # Errors
/// [`Error::Memory`] when huge pages are required and too few are free.
pub(super) fn choices(
    name: &str,
    len: usize,
    node: Option<u32>,
    huge_pages: HugePages,
) -> Result<(Vec<Pages>, Option<String>)> {
    if huge_pages == HugePages::Off {
        return Ok((vec![Pages::ordinary()], None));
    }
    let pool = Pool::read(node);
    let required = huge_pages == HugePages::Require;
    let shortage = pool.as_ref().and_then(|pool| pool.shortage(len, node));
    match (&pool, shortage) {
        (None, _) if required => Err(Error::Memory(format!(
            "block {:?}: huge pages are required, but this kernel has none; set huge pages to `auto` or `off`",
            name
        ))),
        (Some(pool), Some(shortage)) if required => Err(Error::Memory(format!(
            "block {:?}: huge pages are required, but {shortage}; reserve them as root with {}, or set huge pages to \
             `auto` or `off`",
            name,
            pool.recipe(len, node)
        ))),
        (Some(pool), None) if required => Ok((vec![pool.pages()], None)),
        (pool, shortage) => {
            let mut kinds = Vec::new();
            let mut note = None;
            if let Some(pool) = pool.as_ref().filter(|pool| len >= pool.size && pool.reserved > 0) {
                match shortage {
                    None => kinds.push(pool.pages()),
                    Some(shortage) => note = Some(format!("no reserved huge pages: {shortage}")),
                }
            }
            kinds.extend(transparent().filter(|pages| len >= pages.size));
            kinds.push(Pages::ordinary());
            Ok((kinds, note))
        }
    }
}

/// The kind of pages that a block of `len` bytes on `node` can expect, and for a better kind what to do.
///
/// # Errors
/// As for [`choices`].
pub(crate) fn prospects(len: usize, node: Option<u32>, huge_pages: HugePages) -> Result<(PageKind, Option<String>)> {
    let (kinds, _) = choices("the first", len, node, huge_pages)?;
    let kind = kinds.first().map_or(PageKind::Ordinary, |pages| pages.kind);
    let better = if kind == PageKind::Ordinary && huge_pages != HugePages::Off { Pool::read(node) } else { None };
    Ok((kind, better.map(|pool| format!("reserve them as root with {}", pool.recipe(len, node)))))
}

/// Reserved huge pages of the default size, in pages.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pool {
    /// Bytes of one page.
    size: usize,
    /// Pages there are, and those that a new mapping could still have, on the whole host.
    reserved: usize,
    free: usize,
    /// The same on the node that was asked for, when the system tells it.
    on_node: Option<(usize, usize)>,
}

impl Pool {
    fn read(node: Option<u32>) -> Option<Self> {
        let size = usize::try_from(kib_after(&fs::read_to_string("/proc/meminfo").ok()?, "Hugepagesize:")?).ok()?;
        let name = format!("hugepages-{}kB", size / 1024);
        let count = |dir: &str, file: &str| number(&format!("{dir}/{name}/{file}"));
        let all = "/sys/kernel/mm/hugepages";
        // Pages promised to a mapping that has not touched them yet still count as free.
        let free = count(all, "free_hugepages")?.saturating_sub(count(all, "resv_hugepages")?);
        let on_node = node.and_then(|node| {
            let dir = format!("/sys/devices/system/node/node{node}/hugepages");
            Some((count(&dir, "nr_hugepages")?, count(&dir, "free_hugepages")?))
        });
        Some(Self { size, reserved: count(all, "nr_hugepages")?, free, on_node })
    }

    fn pages(&self) -> Pages {
        Pages { kind: PageKind::HugeReserved, size: self.size }
    }

    /// What is missing for `len` bytes on `node`; `None` when there is enough.
    fn shortage(&self, len: usize, node: Option<u32>) -> Option<String> {
        let needed = len.div_ceil(self.size);
        let size = bytes(self.size as u64);
        if needed > self.free {
            return Some(format!(
                "{needed} of {size} are needed, and of {} reserved on this host {} are free",
                self.reserved, self.free
            ));
        }
        let (node, (reserved, free)) = node.zip(self.on_node)?;
        (needed > free).then(|| {
            format!("{needed} of {size} are needed on node {node}, and of {reserved} reserved there {free} are free")
        })
    }

    /// How to reserve enough for `len` more bytes on `node`.
    fn recipe(&self, len: usize, node: Option<u32>) -> String {
        let (needed, kib) = (len.div_ceil(self.size), self.size / 1024);
        let (dir, reserved, free) = match node.zip(self.on_node) {
            Some((node, (reserved, free))) => {
                (format!("/sys/devices/system/node/node{node}/hugepages"), reserved, free.min(self.free))
            }
            None => ("/sys/kernel/mm/hugepages".to_owned(), self.reserved, self.free),
        };
        let count = reserved + needed.saturating_sub(free);
        format!("`echo {count} > {dir}/hugepages-{kib}kB/nr_hugepages`, or at boot with `hugepages=`")
    }
}

/// Transparent huge pages, when the system lets shared memory have them.
fn transparent() -> Option<Pages> {
    let dir = "/sys/kernel/mm/transparent_hugepage";
    let size = number(&format!("{dir}/hpage_pmd_size"))?;
    let all = chosen(&format!("{dir}/shmem_enabled"))?;
    // Newer kernels have a switch per size, which may leave it to the common one; `deny` and `force` win over it.
    let own = chosen(&format!("{dir}/hugepages-{}kB/shmem_enabled", size / 1024)).filter(|own| own != "inherit");
    let word = if matches!(all.as_str(), "deny" | "force") { all } else { own.unwrap_or(all) };
    let allowed = ["always", "within_size", "advise", "force"].contains(&word.as_str());
    allowed.then_some(Pages { kind: PageKind::HugeTransparent, size })
}

/// The number that a file of `/sys` holds.
fn number(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The word in brackets in a file of `/sys` that lists its choices: `always [madvise] never`.
fn chosen(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// How many bytes of the mapping that holds `address` are mapped by transparent huge pages now.
pub(super) fn transparent_bytes(address: usize) -> Option<u64> {
    let range = |line: &str| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
    };
    // Line by line: the kernel makes each mapping's text when it is read, by a walk over its pages.
    let lines = BufReader::new(fs::File::open("/proc/self/smaps").ok()?).lines().map_while(|line| line.ok());
    lines
        .skip_while(|line| !range(line).is_some_and(|range| range.contains(&address)))
        .find_map(|line| kib_after(&line, "ShmemPmdMapped:"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_shortage_names_what_is_reserved_and_free_where() {
        let pool = Pool { size: 2 * MIB, reserved: 10, free: 4, on_node: Some((5, 1)) };
        assert_eq!(pool.shortage(8 * MIB, None), None);
        assert_eq!(pool.shortage(2 * MIB, Some(1)), None);
        let host = pool.shortage(8 * MIB + 1, None).unwrap();
        assert!(host.contains("5 of 2 MiB are needed, and of 10 reserved on this host 4 are free"), "{host}");
        let node = pool.shortage(4 * MIB, Some(1)).unwrap();
        assert!(node.contains("on node 1, and of 5 reserved there 1 are free"), "{node}");
    }

    #[test]
    fn following_the_recipe_ends_the_shortage() {
        let pool = Pool { size: 2 * MIB, reserved: 10, free: 4, on_node: Some((5, 1)) };
        assert!(pool.recipe(20 * MIB, None).contains("echo 16 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_"));
        assert!(pool.recipe(20 * MIB, Some(1)).contains("echo 14 > /sys/devices/system/node/node1/hugepages/"));
    }

    #[test]
    fn the_word_in_brackets_is_the_chosen_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "always within_size [advise] never deny force\n").unwrap();
        assert_eq!(chosen(file.path().to_str().unwrap()).as_deref(), Some("advise"));
    }
}
