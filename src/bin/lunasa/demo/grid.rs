//! The cut of the domain over the ranks in three directions: who owns which cells, and who is next to whom.

use std::fmt;

use super::error::{Error, Result};

/// Cells along x, y and z; z is the fastest in memory.
pub type Shape = [usize; 3];

/// One of the six faces of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Face {
    /// The axis it is perpendicular to: 0, 1 or 2 for x, y or z.
    pub axis: usize,
    /// Whether it is the face at the high end of that axis.
    pub high: bool,
}

impl Face {
    /// All six, in the order of [`Face::index`].
    pub const ALL: [Self; 6] = [
        Self { axis: 0, high: false },
        Self { axis: 0, high: true },
        Self { axis: 1, high: false },
        Self { axis: 1, high: true },
        Self { axis: 2, high: false },
        Self { axis: 2, high: true },
    ];

    /// Its number, 0 to 5.
    pub const fn index(self) -> usize {
        2 * self.axis + self.high as usize
    }

    /// The face that touches it on the neighbour.
    pub const fn opposite(self) -> Self {
        Self { axis: self.axis, high: !self.high }
    }

    /// Cells on this face of a block of `size` cells.
    pub const fn cells(self, size: Shape) -> usize {
        size[(self.axis + 1) % 3] * size[(self.axis + 2) % 3]
    }
}

/// A box of cells within the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its first cell.
    pub start: Shape,
    /// Its cells along each axis.
    pub size: Shape,
}

impl Place {
    /// Words in its metadata form.
    pub const META_WORDS: usize = 6;

    /// Cells in the box.
    pub fn cells(&self) -> usize {
        self.size.iter().product()
    }

    /// As the metadata of an LDO: three offsets, three sizes.
    pub fn to_meta(self) -> [u64; Self::META_WORDS] {
        let [[x, y, z], [nx, ny, nz]] = [self.start, self.size];
        [x, y, z, nx, ny, nz].map(|word| word as u64)
    }

    /// From the metadata of an LDO; the box must lie within a domain of `shape` cells.
    pub fn from_meta(meta: &[u64], shape: Shape) -> Result<Self> {
        let words: [u64; Self::META_WORDS] = meta
            .try_into()
            .map_err(|_| Error::Exchange(format!("a block's metadata has {} words, not 6", meta.len())))?;
        let word = |i: usize| usize::try_from(words[i]).unwrap_or(usize::MAX);
        let place = Self { start: [word(0), word(1), word(2)], size: [word(3), word(4), word(5)] };
        let fits = (0..3).all(|d| place.start[d].checked_add(place.size[d]).is_some_and(|end| end <= shape[d]));
        if fits { Ok(place) } else { Err(Error::Exchange(format!("{place:?} is not within the domain {shape:?}"))) }
    }

    /// The start, in the whole domain of `shape` cells, of each row of this box along z.
    pub fn rows(self, shape: Shape) -> impl Iterator<Item = usize> {
        let Self { start: [x0, y0, z0], size: [nx, ny, _] } = self;
        (x0..x0 + nx).flat_map(move |x| (y0..y0 + ny).map(move |y| (x * shape[1] + y) * shape[2] + z0))
    }
}

/// A domain, cut into one box per rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    shape: Shape,
    parts: [usize; 3],
}

impl Grid {
    /// Cuts a domain of `shape` cells for `ranks` ranks.
    ///
    /// Of all ways to write `ranks` as a product of three, it takes one that leaves no rank without cells where there is
    /// one, and of these the one with the fewest cells on cuts: they are what is exchanged. Equals are broken in favour
    /// of cuts across x, then y, whose faces lie together in memory.
    pub fn new(shape: Shape, ranks: usize) -> Self {
        let cost = |parts: [usize; 3]| {
            let idle = (0..3).any(|d| parts[d] > shape[d]);
            let cut: usize = (0..3).map(|d| (parts[d] - 1) * Face { axis: d, high: false }.cells(shape)).sum();
            (idle, cut, parts[2], parts[1])
        };
        let mut best = [ranks.max(1), 1, 1];
        for x in divisors(ranks) {
            for y in divisors(ranks / x) {
                let parts = [x, y, ranks / x / y];
                if cost(parts) < cost(best) {
                    best = parts;
                }
            }
        }
        Self { shape, parts: best }
    }

    /// The box of `rank`. Sizes along an axis differ by at most one; with more parts than cells, the last are empty.
    pub fn place(&self, rank: usize) -> Place {
        let at = self.coordinates(rank);
        let (mut start, mut size) = ([0; 3], [0; 3]);
        for d in 0..3 {
            let (each, rest) = (self.shape[d] / self.parts[d], self.shape[d] % self.parts[d]);
            start[d] = at[d] * each + at[d].min(rest);
            size[d] = each + usize::from(at[d] < rest);
        }
        Place { start, size }
    }

    /// The rank across `face` of `rank`'s box; none at the boundary of the domain, or where either has no cells.
    pub fn neighbour(&self, rank: usize, face: Face) -> Option<usize> {
        let mut at = self.coordinates(rank);
        let along = &mut at[face.axis];
        *along = if face.high { *along + 1 } else { along.checked_sub(1)? };
        if *along >= self.parts[face.axis] {
            return None;
        }
        let other = (at[0] * self.parts[1] + at[1]) * self.parts[2] + at[2];
        (self.place(rank).cells() > 0 && self.place(other).cells() > 0).then_some(other)
    }

    fn coordinates(&self, rank: usize) -> [usize; 3] {
        let [_, py, pz] = self.parts;
        [rank / (py * pz), rank / pz % py, rank % pz]
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.parts;
        write!(f, "{x}x{y}x{z}")
    }
}

fn divisors(n: usize) -> impl Iterator<Item = usize> {
    (1..=n).filter(move |d| n.is_multiple_of(*d))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn shape() -> impl Strategy<Value = Shape> {
        [1usize..14, 1usize..14, 1usize..14]
    }

    proptest! {
        #[test]
        fn every_cell_is_owned_exactly_once(shape in shape(), ranks in 1usize..80) {
            let grid = Grid::new(shape, ranks);
            prop_assert_eq!(grid.parts.iter().product::<usize>(), ranks);
            let mut owners = vec![0u32; shape.iter().product()];
            for rank in 0..ranks {
                let place = grid.place(rank);
                for row in place.rows(shape) {
                    owners[row..row + place.size[2]].iter_mut().for_each(|n| *n += 1);
                }
            }
            prop_assert!(owners.iter().all(|&n| n == 1));
        }

        #[test]
        fn touching_faces_name_each_other_and_have_the_same_cells(shape in shape(), ranks in 1usize..80) {
            let grid = Grid::new(shape, ranks);
            for rank in 0..ranks {
                let mine = grid.place(rank);
                for face in Face::ALL {
                    let Some(other) = grid.neighbour(rank, face) else {
                        let end = if face.high { mine.start[face.axis] + mine.size[face.axis] } else { mine.start[face.axis] };
                        let boundary = if face.high { shape[face.axis] } else { 0 };
                        prop_assert!(mine.cells() == 0 || end == boundary, "only the boundary has no neighbour");
                        continue;
                    };
                    prop_assert_eq!(grid.neighbour(other, face.opposite()), Some(rank));
                    let theirs = grid.place(other);
                    let (low, high) = if face.high { (mine, theirs) } else { (theirs, mine) };
                    prop_assert_eq!(low.start[face.axis] + low.size[face.axis], high.start[face.axis]);
                    for d in (0..3).filter(|&d| d != face.axis) {
                        prop_assert_eq!((mine.start[d], mine.size[d]), (theirs.start[d], theirs.size[d]));
                    }
                    prop_assert_eq!(face.cells(mine.size), face.opposite().cells(theirs.size));
                }
            }
        }

        #[test]
        fn no_other_cut_without_idle_ranks_has_less_surface(shape in shape(), ranks in 1usize..60) {
            let surface = |p: [usize; 3]| (p[0] - 1) * shape[1] * shape[2]
                + (p[1] - 1) * shape[0] * shape[2]
                + (p[2] - 1) * shape[0] * shape[1];
            let grid = Grid::new(shape, ranks);
            for x in 1..=ranks {
                for y in 1..=ranks {
                    for z in (1..=ranks).filter(|z| x * y * z == ranks) {
                        if x <= shape[0] && y <= shape[1] && z <= shape[2] {
                            prop_assert!(surface(grid.parts) <= surface([x, y, z]));
                            prop_assert!((0..3).all(|d| grid.parts[d] <= shape[d]));
                        }
                    }
                }
            }
        }

        #[test]
        fn a_place_survives_being_metadata(shape in shape(), ranks in 1usize..80, rank in 0usize..80) {
            let place = Grid::new(shape, ranks).place(rank % ranks);
            prop_assert_eq!(Place::from_meta(&place.to_meta(), shape).unwrap(), place);
        }
    }

    #[test]
    fn four_ranks_cut_a_cube_across_x_and_y() {
        assert_eq!(Grid::new([48, 48, 48], 4).to_string(), "2x2x1");
        assert_eq!(Grid::new([48, 48, 48], 8).to_string(), "2x2x2");
        assert_eq!(Grid::new([48, 48, 48], 1).to_string(), "1x1x1");
        assert_eq!(Grid::new([2, 2, 1000], 6).to_string(), "1x1x6");
    }

    #[test]
    fn metadata_that_leaves_the_domain_is_refused() {
        for meta in [&[0, 0, 0, 5, 4, 4][..], &[u64::MAX, 0, 0, 1, 1, 1], &[0, 0, 0, 4, 4]] {
            assert!(Place::from_meta(meta, [4, 4, 4]).is_err(), "{meta:?}");
        }
    }
}
