//! The heat equation on one block: the explicit 7-point step, over cells with a layer of ghosts around them.

use std::f64::consts::PI;

use super::error::{Error, Result};
use super::grid::{Face, Shape};

/// The explicit scheme for one domain: the unit cube with zero boundaries and `n` inner points along each axis, at
/// `(i + 1) / (n + 1)`.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    /// Diffusivity times time step over the square of the spacing, per axis.
    factors: [f64; 3],
    spacing: [f64; 3],
    diffusivity: f64,
    time_step: f64,
}

impl Scheme {
    /// A scheme whose time step is `courant` times the largest stable one.
    ///
    /// The explicit step is stable while `2 · diffusivity · dt · Σ 1/h² ≤ 1`: more is refused.
    pub fn new(shape: Shape, diffusivity: f64, courant: f64) -> Result<Self> {
        let spacing = shape.map(|n| 1.0 / (n as f64 + 1.0));
        let largest = 0.5 / (diffusivity * spacing.iter().map(|h| 1.0 / (h * h)).sum::<f64>());
        let time_step = courant * largest;
        // The negation also refuses what is not a number.
        if !(courant > 0.0 && courant <= 1.0) {
            return Err(Error::Problem(format!(
                "courant = {courant}: the explicit step is stable above 0 and up to 1, here a time step of {largest:e}; \
                 give a value in that range"
            )));
        }
        Ok(Self { factors: spacing.map(|h| diffusivity * time_step / (h * h)), spacing, diffusivity, time_step })
    }

    /// What one step multiplies the lowest sine mode by. The mode is an eigenvector of the discrete operator, so this
    /// is exact, not a limit for small spacings.
    pub fn decay(&self) -> f64 {
        // 1 - cos(πh) = 2 sin²(πh/2), without the cancellation.
        let slow: f64 = (0..3).map(|d| self.factors[d] * (PI * self.spacing[d] / 2.0).sin().powi(2)).sum();
        1.0 - 4.0 * slow
    }

    /// What the heat equation itself multiplies the lowest sine mode by in `steps` steps.
    pub fn continuous_decay(&self, steps: u64) -> f64 {
        (-3.0 * PI * PI * self.diffusivity * self.time_step * steps as f64).exp()
    }

    /// The time step.
    pub fn time_step(&self) -> f64 {
        self.time_step
    }
}

/// The lowest sine mode, `sin(πx) sin(πy) sin(πz)`, at every inner point.
pub fn sine(shape: Shape) -> Vec<f64> {
    let line = |n: usize| (1..=n).map(move |i| (PI * i as f64 / (n as f64 + 1.0)).sin());
    line(shape[0]).flat_map(|x| line(shape[1]).flat_map(move |y| line(shape[2]).map(move |z| x * y * z))).collect()
}

/// The cells of one rank, with a layer of ghosts around them that is zero until it is written.
pub struct Block {
    size: Shape,
    now: Vec<f64>,
    next: Vec<f64>,
}

impl Block {
    /// A block of `size` cells with these values, z fastest.
    ///
    /// # Panics
    /// When there are not as many values as cells.
    pub fn new(size: Shape, values: &[f64]) -> Self {
        assert_eq!(values.len(), size.iter().product::<usize>(), "as many values as cells");
        let padded = size.iter().map(|n| n + 2).product();
        let mut block = Self { size, now: vec![0.0; padded], next: vec![0.0; padded] };
        if !values.is_empty() {
            let rows: Vec<usize> = block.rows().collect();
            for (row, values) in rows.into_iter().zip(values.chunks_exact(size[2])) {
                block.now[row..row + size[2]].copy_from_slice(values);
            }
        }
        block
    }

    /// Advances one step; the ghosts must hold the neighbours' cells. Returns the largest change of a cell.
    pub fn step(&mut self, scheme: &Scheme) -> f64 {
        let [cx, cy, cz] = scheme.factors;
        let [dx, dy, _] = self.strides();
        let n = self.size[2];
        let mut change = 0.0f64;
        for row in self.rows() {
            let line = |at: usize| &self.now[at..at + n];
            let (x0, x1, y0, y1) = (line(row - dx), line(row + dx), line(row - dy), line(row + dy));
            let (z0, here, z1) = (line(row - 1), line(row), line(row + 1));
            let out = &mut self.next[row..row + n];
            for k in 0..n {
                let twice = 2.0 * here[k];
                // The two neighbours of an axis are added first: a mirrored field stays mirrored to the last bit.
                let delta = cx * (x0[k] + x1[k] - twice) + cy * (y0[k] + y1[k] - twice) + cz * (z0[k] + z1[k] - twice);
                out[k] = here[k] + delta;
                change = if delta.abs() > change { delta.abs() } else { change };
            }
        }
        std::mem::swap(&mut self.now, &mut self.next);
        change
    }

    /// Copies the cells along `face` into `out`.
    ///
    /// # Panics
    /// When `out` does not have [`Face::cells`] elements.
    pub fn read_face(&self, face: Face, out: &mut [f64]) {
        let layer = if face.high { self.size[face.axis] } else { 1 };
        let cells = self.layer(face.axis, layer);
        assert_eq!(out.len(), face.cells(self.size), "as many elements as cells on the face");
        for (out, at) in out.iter_mut().zip(cells) {
            *out = self.now[at];
        }
    }

    /// Fills the ghosts outside `face` with what the neighbour read from its opposite face.
    ///
    /// # Panics
    /// When `values` does not have [`Face::cells`] elements.
    pub fn write_ghosts(&mut self, face: Face, values: &[f64]) {
        let layer = if face.high { self.size[face.axis] + 1 } else { 0 };
        assert_eq!(values.len(), face.cells(self.size), "as many values as cells on the face");
        for (value, at) in values.iter().zip(self.layer(face.axis, layer)) {
            self.now[at] = *value;
        }
    }

    /// Copies the cells, without ghosts, into `out`, z fastest.
    ///
    /// # Panics
    /// When `out` has not as many elements as there are cells.
    pub fn read_cells(&self, out: &mut [f64]) {
        assert_eq!(out.len(), self.size.iter().product::<usize>(), "as many elements as cells");
        if !out.is_empty() {
            for (row, out) in self.rows().zip(out.chunks_exact_mut(self.size[2])) {
                out.copy_from_slice(&self.now[row..row + self.size[2]]);
            }
        }
    }

    fn strides(&self) -> [usize; 3] {
        [(self.size[1] + 2) * (self.size[2] + 2), self.size[2] + 2, 1]
    }

    /// Where each row of cells along z begins, ghosts left out.
    fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        let ([nx, ny, _], [dx, dy, _]) = (self.size, self.strides());
        (1..=nx).flat_map(move |x| (1..=ny).map(move |y| x * dx + y * dy + 1))
    }

    /// Where the cells of one layer across `axis` are; both sides of a face walk it in the same order.
    fn layer(&self, axis: usize, layer: usize) -> impl Iterator<Item = usize> + use<> {
        let strides = self.strides();
        let (slow, fast) = if axis == 0 { (1, 2) } else { (0, if axis == 1 { 2 } else { 1 }) };
        let (rows, columns) = (self.size[slow], self.size[fast]);
        (1..=rows).flat_map(move |i| {
            (1..=columns).map(move |j| layer * strides[axis] + i * strides[slow] + j * strides[fast])
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::grid::Grid;
    use super::*;
    use approx::assert_abs_diff_eq;
    use proptest::prelude::*;

    fn run(shape: Shape, values: &[f64], scheme: &Scheme, steps: u64) -> Vec<f64> {
        let mut block = Block::new(shape, values);
        for _ in 0..steps {
            block.step(scheme);
        }
        let mut out = vec![0.0; values.len()];
        block.read_cells(&mut out);
        out
    }

    /// The same run on the blocks of a grid, with faces handed over directly.
    fn run_cut(shape: Shape, values: &[f64], scheme: &Scheme, steps: u64, ranks: usize) -> Vec<f64> {
        let grid = Grid::new(shape, ranks);
        let place = |rank| grid.place(rank);
        let mut blocks: Vec<Block> = (0..ranks)
            .map(|rank| {
                let place = place(rank);
                let cells: Vec<f64> =
                    place.rows(shape).flat_map(|row| values[row..row + place.size[2]].to_vec()).collect();
                Block::new(place.size, &cells)
            })
            .collect();
        for _ in 0..steps {
            for rank in 0..ranks {
                for face in Face::ALL {
                    if let Some(other) = grid.neighbour(rank, face) {
                        let mut cells = vec![0.0; face.cells(place(rank).size)];
                        blocks[other].read_face(face.opposite(), &mut cells);
                        blocks[rank].write_ghosts(face, &cells);
                    }
                }
            }
            for block in &mut blocks {
                block.step(scheme);
            }
        }
        let mut out = vec![0.0; values.len()];
        for (rank, block) in blocks.iter().enumerate() {
            let mut cells = vec![0.0; place(rank).cells()];
            block.read_cells(&mut cells);
            for (row, cells) in place(rank).rows(shape).zip(cells.chunks(place(rank).size[2].max(1))) {
                out[row..row + cells.len()].copy_from_slice(cells);
            }
        }
        out
    }

    fn field() -> impl Strategy<Value = (Shape, Vec<f64>)> {
        [1usize..8, 1usize..8, 1usize..8]
            .prop_flat_map(|shape| (Just(shape), prop::collection::vec(-1.0f64..1.0, shape.iter().product::<usize>())))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_cut_domain_computes_the_same_bits((shape, values) in field(), ranks in 1usize..13, courant in 0.1f64..1.0) {
            let scheme = Scheme::new(shape, 0.7, courant).unwrap();
            prop_assert_eq!(run_cut(shape, &values, &scheme, 4, ranks), run(shape, &values, &scheme, 4));
        }

        #[test]
        fn a_mirrored_field_stays_mirrored_to_the_last_bit((shape, values) in field(), axis in 0usize..3) {
            let scheme = Scheme::new(shape, 1.0, 0.9).unwrap();
            let mirrored = |values: &[f64]| -> Vec<f64> {
                let mut out = Vec::new();
                for x in 0..shape[0] {
                    for y in 0..shape[1] {
                        for z in 0..shape[2] {
                            let mut at = [x, y, z];
                            at[axis] = shape[axis] - 1 - at[axis];
                            out.push(values[(at[0] * shape[1] + at[1]) * shape[2] + at[2]]);
                        }
                    }
                }
                out
            };
            prop_assert_eq!(run(shape, &mirrored(&values), &scheme, 5), mirrored(&run(shape, &values, &scheme, 5)));
        }

        #[test]
        fn a_stable_step_never_leaves_the_range_of_the_field((shape, values) in field(), courant in 0.1f64..1.0) {
            let scheme = Scheme::new(shape, 1.0, courant).unwrap();
            let top = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            prop_assert!(run(shape, &values, &scheme, 10).iter().all(|v| v.abs() <= top * (1.0 + 1e-14)));
        }
    }

    #[test]
    fn the_sine_field_decays_by_the_discrete_factor() {
        for (shape, courant) in [([12, 12, 12], 0.9), ([5, 9, 17], 1.0), ([1, 1, 1], 0.5)] {
            let scheme = Scheme::new(shape, 2.5, courant).unwrap();
            let start = sine(shape);
            let decay = scheme.decay().powi(50);
            for (end, start) in run(shape, &start, &scheme, 50).iter().zip(&start) {
                assert_abs_diff_eq!(*end, start * decay, epsilon = 1e-14);
            }
        }
    }

    #[test]
    fn the_discrete_decay_tends_to_the_continuous_one() {
        let error = |n: usize| {
            let scheme = Scheme::new([n; 3], 1.0, 0.5).unwrap();
            let steps = (0.02 / scheme.time_step()).round();
            (scheme.decay().powf(steps) - scheme.continuous_decay(steps as u64)).abs()
        };
        let (coarse, fine) = (error(15), error(31));
        assert!(coarse / fine > 3.5 && coarse / fine < 4.5, "second order in the spacing: {coarse:e}, {fine:e}");
    }

    #[test]
    fn a_step_says_the_largest_change() {
        let scheme = Scheme::new([3, 3, 3], 1.0, 0.6).unwrap();
        let mut values = vec![0.0; 27];
        values[13] = 1.0;
        // Six neighbours at zero: the middle loses courant times its value.
        assert_abs_diff_eq!(Block::new([3, 3, 3], &values).step(&scheme), 0.6, epsilon = 1e-15);
    }

    #[test]
    fn an_unstable_step_is_refused_with_its_limit() {
        for courant in [0.0, -1.0, 1.0001, f64::NAN, f64::INFINITY] {
            let error = Scheme::new([10, 10, 10], 1.0, courant).unwrap_err().to_string();
            assert!(error.contains("courant = ") && error.contains("up to 1"), "{error}");
        }
    }
}
