//! Fields on disk: NumPy's `.npy`, of three axes, in either precision, byte order and order of axes.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::path::Path;

use npyz::{Order, WriterBuilder};

use super::error::{Error, Result};
use super::grid::Shape;

/// A field over the whole domain.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Cells along x, y and z.
    pub shape: Shape,
    /// One value per cell, z fastest.
    pub values: Vec<f64>,
}

impl Field {
    /// Reads an array of three axes of `f8` or `f4` (`<` or `>`), in C or Fortran order; every value must be finite.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |why: String| Error::File(format!("field {}: {why}", path.display()));
        let file = File::open(path).map_err(|e| fail(e.to_string()))?;
        let bytes = file.metadata().map_err(|e| fail(e.to_string()))?.len();
        let mut file = BufReader::new(file);
        let header = npyz::NpyHeader::from_reader(&mut file).map_err(|e| fail(format!("not a .npy file: {e}")))?;
        let data_bytes = bytes.saturating_sub(file.stream_position().map_err(|e| fail(e.to_string()))?);
        let (order, dtype) = (header.order(), header.dtype().descr());
        let [nx, ny, nz] = *header.shape() else {
            let shape = header.shape();
            return Err(fail(format!("has {} axes, of sizes {shape:?}; three are needed: x, y, z", shape.len())));
        };
        let width = match dtype.trim_matches('\'').get(1..) {
            Some("f8") => 8,
            Some("f4") => 4,
            _ => return Err(fail(format!("is of type {dtype}; save it as float64 (f8) or float32 (f4)"))),
        };
        // Held against the size of the file before anything of that size is allocated.
        let claimed = [nx, ny, nz, width].iter().try_fold(1u64, |product, n| product.checked_mul(*n));
        if claimed.is_none_or(|claimed| claimed == 0 || claimed > data_bytes) {
            return Err(fail(format!(
                "its header says {nx} x {ny} x {nz} values of {width} bytes, and {data_bytes} bytes follow it; \
                 is it empty, or was it cut short?"
            )));
        }
        let npy = npyz::NpyFile::with_header(header, file);
        let values: Vec<f64> = match width {
            8 => npy.into_vec::<f64>(),
            _ => npy.into_vec::<f32>().map(|values| values.into_iter().map(f64::from).collect()),
        }
        .map_err(|e| fail(e.to_string()))?;
        let shape = [nx as usize, ny as usize, nz as usize];
        let values = if order == Order::Fortran { to_c_order(shape, &values) } else { values };
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let [_, ny, nz] = shape;
            let (x, y, z) = (at / (ny * nz), at / nz % ny, at % nz);
            return Err(fail(format!("value {} at [{x}, {y}, {z}] is not finite", values[at])));
        }
        Ok(Self { shape, values })
    }

    /// Writes it as little-endian `f8` in C order.
    pub fn write(&self, path: &Path) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(path)?);
            let mut npy = npyz::WriteOptions::new()
                .dtype(npyz::DType::Plain("<f8".parse().map_err(std::io::Error::other)?))
                .shape(&self.shape.map(|n| n as u64))
                .writer(&mut file)
                .begin_nd()?;
            npy.extend(self.values.iter().copied())?;
            npy.finish()?;
            file.flush()
        };
        write().map_err(|e| Error::File(format!("field {}: cannot be written: {e}", path.display())))
    }
}

/// Values with x fastest, reordered to z fastest.
fn to_c_order([nx, ny, nz]: Shape, values: &[f64]) -> Vec<f64> {
    let at = |x, y, z| values[x + nx * (y + ny * z)];
    let mut out = Vec::with_capacity(values.len());
    for x in 0..nx {
        for y in 0..ny {
            out.extend((0..nz).map(|z| at(x, y, z)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// An `.npy` made by hand, as NumPy writes version 1.0.
    fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let fortran = if fortran { "True" } else { "False" };
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}");
        header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    /// The value at each place of a 2 x 3 x 4 array: its own index, as `xyz`.
    fn value(x: usize, y: usize, z: usize) -> f64 {
        (100 * x + 10 * y + z) as f64
    }

    fn c_order() -> Vec<f64> {
        (0..2).flat_map(|x| (0..3).flat_map(move |y| (0..4).map(move |z| value(x, y, z)))).collect()
    }

    fn fortran_order() -> Vec<f64> {
        (0..4).flat_map(|z| (0..3).flat_map(move |y| (0..2).map(move |x| value(x, y, z)))).collect()
    }

    #[test]
    fn both_orders_precisions_and_byte_orders_read_the_same_field() {
        for (order, fortran) in [(c_order(), false), (fortran_order(), true)] {
            let single = order.iter().map(|v| *v as f32);
            let encodings: [(&str, Vec<u8>); 4] = [
                ("<f8", order.iter().flat_map(|v| v.to_le_bytes()).collect()),
                (">f8", order.iter().flat_map(|v| v.to_be_bytes()).collect()),
                ("<f4", single.clone().flat_map(|v| v.to_le_bytes()).collect()),
                (">f4", single.flat_map(|v| v.to_be_bytes()).collect()),
            ];
            for (descr, data) in encodings {
                let field = Field::read(npy(descr, fortran, "(2, 3, 4)", &data).path()).unwrap();
                assert_eq!(field, Field { shape: [2, 3, 4], values: c_order() }, "{descr} fortran={fortran}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_written_field_reads_back_to_the_bit(
            (shape, values) in [1usize..6, 1usize..6, 1usize..6].prop_flat_map(|shape| {
                (Just(shape), prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO, shape.iter().product::<usize>()))
            })
        ) {
            let file = tempfile::NamedTempFile::new().unwrap();
            let field = Field { shape, values };
            field.write(file.path()).unwrap();
            prop_assert_eq!(Field::read(file.path()).unwrap(), field);
        }
    }

    #[test]
    fn what_cannot_be_a_field_is_refused_in_words() {
        let doubles = |n: usize| vec![0u8; 8 * n];
        let nan = f64::NAN.to_le_bytes();
        for (file, words) in [
            (npy("<f8", false, "(4, 4)", &doubles(16)), "2 axes"),
            (npy("<i4", false, "(2, 2, 2)", &doubles(4)), "float64"),
            (npy("<f8", false, "(2, 2, 2)", &doubles(3)), "cut short"),
            (npy("<f8", false, "(2000000, 2000000, 2000)", &doubles(8)), "cut short"),
            (npy("<f8", false, "(0, 2, 2)", &[]), "is it empty"),
            (npy("<f8", false, "(1, 1, 1)", &nan), "value NaN at [0, 0, 0]"),
        ] {
            let error = Field::read(file.path()).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("field "), "{error}");
        }
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "x,y,z\n").unwrap();
        assert!(Field::read(text.path()).unwrap_err().to_string().contains("not a .npy file"));
        assert!(Field::read(Path::new("no-such-field.npy")).unwrap_err().to_string().contains("no-such-field.npy"));
    }
}
