//! The exchange of faces: each face is an LDO that lives as long as the run, named to the neighbour once.
//!
//! Every face has two LDOs that a neighbour reaches from its side, for even and odd steps. Their handles travel once, at
//! the start. From then on each step moves the faces one-sidedly, and one tiny MPI message per neighbour says when:
//!
//! - **fetch**: fill my faces; say so to the neighbours; once a neighbour has said so, read its face.
//! - **put**: write my faces into the neighbours' ghosts; say so; once a neighbour has said so, read my ghosts.
//!
//! Why two are enough. Let p be the LDO used in step k; its next use is in step k + 2.
//!
//! - *fetch*: I overwrite p in step k + 2, after the neighbour's message of step k + 1 has come. It sent that after its
//!   `get` of step k had returned, so it has read p. One LDO would not do: I may fill step k + 1 while it still reads k.
//! - *put*: the neighbour writes p again in step k + 2, after my message of step k + 1 has come. I sent that after I had
//!   read p in step k.
//!
//! So nobody writes an LDO while another reads it, and no slice of it is held while a peer may write. The message orders
//! the memory as well: what a rank wrote before it sent is seen by the rank that received, and a `put` has reached its
//! object when it returns.

use lunasa::{Ldo, Lunasa, RemoteHandle};
use mpi::request::WaitGuard;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

use super::error::{Error, Result};
use super::grid::{Face, Grid, Shape};
use super::heat::Block;
use super::problem::Mode;

/// The type of the face LDOs, as the pages show it.
const FACE_TYPE: &str = "heat face";
/// Messages of face `i` carry the tag `FACE_TAG + i`.
const FACE_TAG: i32 = 100;

/// One rank's exchange with its neighbours.
pub struct Exchange<'a> {
    world: &'a SimpleCommunicator,
    lunasa: &'a Lunasa,
    mode: Mode,
    /// Whether Lunasa has a thread that serves peers while this one waits in MPI.
    threaded: bool,
    links: Vec<Link>,
}

/// What joins this rank to the neighbour across one face.
struct Link {
    face: Face,
    peer: i32,
    /// What the neighbour reads (fetch: my face) or writes (put: my ghosts), for even and odd steps.
    shown: [Ldo; 2],
    /// The other end of a transfer, for this rank alone: the ghosts (fetch) or my face (put).
    own: Ldo,
    /// The neighbour's `shown`.
    theirs: [RemoteHandle; 2],
}

impl<'a> Exchange<'a> {
    /// Makes the faces of `rank`'s block and trades their handles with the neighbours. Collective.
    pub fn new(world: &'a SimpleCommunicator, lunasa: &'a Lunasa, grid: &Grid, mode: Mode) -> Result<Self> {
        let rank = world.rank() as usize;
        let size = grid.place(rank).size;
        let mut ends = Vec::new();
        for face in Face::ALL {
            if let Some(peer) = grid.neighbour(rank, face) {
                let shown = [face_object(lunasa, face, size)?, face_object(lunasa, face, size)?];
                let handles = match mode {
                    Mode::Fetch => [shown[0].handle()?, shown[1].handle()?],
                    // SAFETY: the neighbour writes only between the messages described at the top of this file; in that
                    // time no slice of these data exists here, and both outlive the last write (see `settle`).
                    Mode::Put => unsafe { [shown[0].handle_mut()?, shown[1].handle_mut()?] },
                };
                ends.push((face, peer as i32, shown, handles));
            }
        }
        let threaded = mpi::environment::threading_support() == mpi::Threading::Multiple;
        let received = trade_handles(world, &ends)?;
        let mut links = Vec::new();
        for ((face, peer, shown, _), theirs) in ends.into_iter().zip(received) {
            links.push(Link { face, peer, shown, own: face_object(lunasa, face, size)?, theirs });
        }
        Ok(Self { world, lunasa, mode, threaded, links })
    }

    /// Brings the neighbours' cells into the ghosts of `block`, for the given step. Every rank calls it with 0, 1, 2 ...
    pub fn step(&mut self, step: u64, block: &mut Block) -> Result<()> {
        let side = (step % 2) as usize;
        match self.mode {
            Mode::Fetch => {
                for link in &mut self.links {
                    block.read_face(link.face, link.shown[side].data_mut()?);
                }
                self.meet(step)?;
                for link in &mut self.links {
                    self.lunasa.get(&link.theirs[side], .., &mut link.own)?;
                    block.write_ghosts(link.face, link.own.data()?);
                }
            }
            Mode::Put => {
                for link in &mut self.links {
                    block.read_face(link.face, link.own.data_mut()?);
                    self.lunasa.put(&link.own, &link.theirs[side])?;
                }
                self.meet(step)?;
                for link in &self.links {
                    block.write_ghosts(link.face, link.shown[side].data()?);
                }
            }
        }
        Ok(())
    }

    /// LDOs that neighbours reach.
    pub fn served(&self) -> u64 {
        2 * self.links.len() as u64
    }

    /// Returns when no neighbour reaches for this rank's faces any more, after the last step. Collective.
    ///
    /// Before it, a rank that blocked in MPI would leave a slower neighbour waiting for the face of the last step where
    /// Lunasa has no thread; after it the faces may be freed.
    pub fn settle(&self) {
        crate::comm::meet(self.world, self.lunasa);
    }

    /// Tells every neighbour that this rank has reached `step`, and waits until each has.
    fn meet(&self, step: u64) -> Result<()> {
        mpi::request::scope(|scope| {
            // All are sent before any is waited for, so no two ranks wait for each other.
            let _sends: Vec<_> = self
                .links
                .iter()
                .map(|link| {
                    let peer = self.world.process_at_rank(link.peer);
                    WaitGuard::from(peer.immediate_send_with_tag(scope, &step, tag(link.face)))
                })
                .collect();
            for link in &self.links {
                let (peer, tag) = (self.world.process_at_rank(link.peer), tag(link.face.opposite()));
                while !self.threaded && peer.immediate_probe_with_tag(tag).is_none() {
                    self.lunasa.progress();
                    std::thread::yield_now();
                }
                let (theirs, _) = peer.receive_with_tag::<u64>(tag);
                if theirs != step {
                    return Err(Error::Exchange(format!(
                        "rank {} is at step {theirs} and this rank at {step}",
                        link.peer
                    )));
                }
            }
            Ok(())
        })
    }
}

/// An LDO for the cells of one face of a block of `size` cells.
fn face_object(lunasa: &Lunasa, face: Face, size: Shape) -> Result<Ldo> {
    Ok(lunasa.object().type_id(FACE_TYPE).data_of::<f64>(face.cells(size))?)
}

/// Sends each neighbour the handles of the face it touches, and returns what it sent for the same face.
fn trade_handles(
    world: &SimpleCommunicator,
    ends: &[(Face, i32, [Ldo; 2], [RemoteHandle; 2])],
) -> Result<Vec<[RemoteHandle; 2]>> {
    mpi::request::scope(|scope| {
        let _sends: Vec<_> = ends
            .iter()
            .map(|(face, peer, _, handles)| {
                let peer = world.process_at_rank(*peer);
                WaitGuard::from(peer.immediate_send_with_tag(scope, &handles[..], tag(*face)))
            })
            .collect();
        ends.iter()
            .map(|(face, peer, ..)| {
                let peer = world.process_at_rank(*peer);
                let (theirs, _) = peer.receive_vec_with_tag::<RemoteHandle>(tag(face.opposite()));
                <[RemoteHandle; 2]>::try_from(theirs)
                    .map_err(|got| Error::Exchange(format!("{} handles came instead of 2", got.len())))
            })
            .collect()
    })
}

fn tag(face: Face) -> i32 {
    FACE_TAG + face.index() as i32
}
