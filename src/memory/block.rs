//! A block: a memfd, mapped shared, bound near its user, touched, and its placement looked at.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::limits::{Limits, bytes};
use super::mapping::Mapping;
use super::pages::{self, PageKind, Pages};
use super::placement::{self, Place};
use super::touch;
use crate::config::HugePages;
use crate::error::{Error, Result};
use crate::topology::{CpuList, Topology};

/// The longest block; beyond it, rounding and aligning could overflow.
const MAX_LEN: usize = isize::MAX as usize / 2;
/// The longest name of a memfd: a file name without `memfd:`.
const MAX_NAME: usize = 249;

/// What a block shall be.
#[derive(Debug, Clone, Copy)]
pub struct BlockRequest<'a> {
    /// Its name: shown in `/proc`, and what a peer proves the block by; so unique on the host. At most 249 bytes, no NUL.
    pub name: &'a str,
    /// Its least length in bytes.
    pub len: usize,
    /// Where its pages shall be.
    pub place: Place,
    /// Whether it is made of huge pages.
    pub huge_pages: HugePages,
    /// How many threads touch it; 0 lets Lunasa choose.
    pub touch_threads: usize,
    /// The host's nodes and cpus.
    pub topology: &'a Topology,
}

/// What a block has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockReport {
    /// Bytes of one page.
    pub page_bytes: u64,
    /// The kind of its pages.
    pub page_kind: PageKind,
    /// The node that was asked for, when it was one.
    pub node_asked: Option<u32>,
    /// The nodes that its pages were to go round, when it was to be interleaved; else none.
    pub interleaved: Vec<u32>,
    /// On which nodes a sample of up to 64 of its pages was found: `(node, pages)`, by rising node.
    pub nodes_found: Vec<(u32, u64)>,
    /// What did not go as asked, in words.
    pub note: Option<String>,
    /// Time to map it.
    pub map: Duration,
    /// Time to bind it.
    pub bind: Duration,
    /// Time to touch it.
    pub touch: Duration,
}

/// A large shared mapping, released when dropped: whoever uses its memory keeps it, and deregisters first. A forked child
/// has the same memory; when it drops the block, only its own mapping and descriptor go.
///
/// ```
/// use lunasa::memory::{Block, BlockRequest, HugePages, Place};
/// let topology = lunasa::topology::Topology::discover()?;
/// let block = Block::map(&BlockRequest {
///     name: "lunasa-doc",
///     len: 1 << 20,
///     place: Place::Interleaved,
///     huge_pages: HugePages::Auto,
///     touch_threads: 0,
///     topology: &topology,
/// })?;
/// assert_eq!(block.len(), 1 << 20);
/// println!("{:?}", block.report());
/// # Ok::<(), lunasa::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Block {
    mapping: Mapping,
    file: File,
    name: String,
    report: BlockReport,
}

impl Block {
    /// Maps a block, filled with zeros: places it as asked, touches all of it, and looks where it came to be.
    ///
    /// A kind of huge page that fails is replaced by the next one, and a binding that is not possible is left out; the
    /// report's note says so.
    ///
    /// # Errors
    /// [`Error::Memory`] when the name or the length cannot be, required huge pages are not free, or memory or a limit
    /// does not suffice. Nothing is kept then.
    pub fn map(request: &BlockRequest<'_>) -> Result<Self> {
        let wrong = |why: String| Err(Error::Memory(format!("block {:?}: {why}", request.name)));
        if request.len == 0 || request.len > MAX_LEN {
            return wrong(format!("a length of {} bytes cannot be mapped", request.len));
        }
        if request.name.len() > MAX_NAME || request.name.contains('\0') {
            return wrong(format!("a name has at most {MAX_NAME} bytes, none of them NUL"));
        }
        let (kinds, note) = pages::choices(request.name, request.len, request.place.node(), request.huge_pages)?;
        let mut notes: Vec<String> = note.into_iter().collect();
        let mut kinds = kinds.into_iter().peekable();
        while let Some(pages) = kinds.next() {
            match Self::map_of(pages, request, &mut notes) {
                Err(error) if kinds.peek().is_some() => notes.push(format!("{} pages failed: {error}", pages.kind)),
                result => return result,
            }
        }
        wrong("there is no kind of page to make it of".into())
    }

    /// Maps a block of one kind of `pages`; adds what did not go as asked to `notes`.
    fn map_of(pages: Pages, request: &BlockRequest<'_>, notes: &mut Vec<String>) -> Result<Self> {
        let len = request.len.next_multiple_of(pages.size);
        let limits = Limits::read();
        let failed = |what: &str, why: String| {
            let (name, len) = (request.name, bytes(len as u64));
            Error::Memory(format!("block {name:?} of {len}, {} pages: {what}: {why}. Limits: {limits}", pages.kind))
        };
        let refusal = limits.file_refusal(len as u64).or_else(|| match pages.kind {
            PageKind::HugeReserved => None,
            _ => limits.refusal(len as u64),
        });
        if let Some(why) = refusal {
            return Err(failed("not mapped", why));
        }

        let start = Instant::now();
        let file = create(request.name, pages.kind, len).map_err(|error| failed("memfd", said(&error)))?;
        let mapping = Mapping::shared(file.as_fd(), len, pages.size, true).map_err(|e| failed("mmap", said(&e)))?;
        if pages.kind == PageKind::HugeTransparent {
            mapping.advise(0, len, libc::MADV_HUGEPAGE).map_err(|e| failed("madvise(MADV_HUGEPAGE)", said(&e)))?;
        }
        let map = start.elapsed();

        let start = Instant::now();
        let mut said_here = Vec::new();
        said_here.extend(placement::place(&mapping, pages.kind, request.place, request.topology));
        let bind = start.elapsed();

        let start = Instant::now();
        let near = near(request);
        let threads = touch::threads(request.touch_threads, len, near.len());
        touch::touch(&mapping, file.as_fd(), pages, touch::Method::best(), threads, &near)
            .map_err(|error| failed("touching", said(&error)))?;
        let touch = start.elapsed();

        let (pages, shortfall) = got(&mapping, pages);
        said_here.extend(shortfall);
        let interleaved =
            if request.place == Place::Interleaved { request.topology.memory_nodes() } else { Vec::new() };
        let nodes_found = placement::find(&mapping, pages.size, interleaved.len()).unwrap_or_else(|error| {
            said_here.push(format!("placement not verified, move_pages: {error}"));
            Vec::new()
        });
        let asked = request.place.node().map_or_else(|| interleaved.clone(), |node| vec![node]);
        said_here.extend(placement::mismatch(&asked, &nodes_found));
        notes.append(&mut said_here);
        let report = BlockReport {
            page_bytes: pages.size as u64,
            page_kind: pages.kind,
            node_asked: request.place.node(),
            interleaved,
            nodes_found,
            note: (!notes.is_empty()).then(|| notes.join("; ")),
            map,
            bind,
            touch,
        };
        Ok(Self { mapping, file, name: request.name.to_owned(), report })
    }

    /// The first byte. The bytes stay mapped as long as the block lives.
    pub fn base(&self) -> NonNull<u8> {
        self.mapping.base()
    }

    /// The length in bytes: what was asked for, rounded up to whole pages.
    #[allow(clippy::len_without_is_empty)] // a block is never empty
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// The memfd, by which a peer on the same host maps the block. It belongs to the block.
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The block's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the block has become.
    pub fn report(&self) -> &BlockReport {
        &self.report
    }
}

/// Makes a memfd of `len` bytes that keeps its length.
pub(super) fn create(name: &str, kind: PageKind, len: usize) -> io::Result<File> {
    let name = CString::new(name)?;
    #[cfg(test)]
    super::faults::pass()?;
    let huge = if kind == PageKind::HugeReserved { libc::MFD_HUGETLB } else { 0 };
    // SAFETY: the name ends with a NUL; the call only reads it.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    let file = unsafe { File::from_raw_fd(fd) };
    #[cfg(test)]
    super::faults::pass()?;
    file.set_len(len as u64)?;
    // No peer that opens it can shorten it under us, which would be a SIGBUS here. Where a kernel cannot seal this kind,
    // peers are as trusted as they are with writing.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the call takes numbers only.
    unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) };
    Ok(file)
}

/// The cpus whose threads touch the block: this process's on the node asked for, or all of its own; none to stay unpinned
/// when it may run on none of that node's.
fn near(request: &BlockRequest<'_>) -> CpuList {
    let own = request.topology.cpus();
    let on_node = request.place.node().and_then(|node| request.topology.cpus_of(node));
    on_node.map_or_else(|| own.clone(), |cpus| cpus.intersection(own))
}

/// The kind of pages that a touched mapping really has, and a word when they are not those it was to have.
fn got(mapping: &Mapping, pages: Pages) -> (Pages, Option<String>) {
    if pages.kind != PageKind::HugeTransparent {
        return (pages, None);
    }
    match pages::transparent_bytes(mapping.base().as_ptr() as usize) {
        Some(huge) if huge >= mapping.len() as u64 => (pages, None),
        Some(0) | None => (Pages::ordinary(), Some("the kernel gave no transparent huge pages".into())),
        Some(huge) => {
            let (huge, all) = (bytes(huge), bytes(mapping.len() as u64));
            (pages, Some(format!("only {huge} of {all} are transparent huge pages")))
        }
    }
}

/// A system call's error, with what to do where its number tells.
fn said(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the limit on open files with `ulimit -n`",
        Some(libc::ENOMEM | libc::ENOSPC) => "; ask for less, or raise the limit that is hit",
        _ => "",
    };
    format!("{error}{advice}")
}
