//! A picture of the field: its middle slice across x, as a PNG with a colour bar.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::error::{Error, Result};
use super::field::Field;

/// Dark blue to yellow, of evenly rising lightness (the anchors of matplotlib's viridis).
const COLOURS: [[f64; 3]; 6] = [
    [68.0, 1.0, 84.0],
    [65.0, 68.0, 135.0],
    [42.0, 120.0, 142.0],
    [34.0, 168.0, 132.0],
    [122.0, 209.0, 81.0],
    [253.0, 231.0, 37.0],
];

/// The shorter side of the slice is drawn with at least so many pixels.
const LEAST_SIDE: usize = 390;
/// White space around the bar, and the bar's width, in pixels.
const GAP: usize = 12;
const BAR: usize = 24;

/// Draws the slice at the middle of x: y to the right, z upwards. The bar at the right runs from the slice's least value
/// to its greatest; both are in the file's `Description`.
pub fn write(field: &Field, path: &Path) -> Result<()> {
    let fail = |why: String| Error::File(format!("picture {}: cannot be written: {why}", path.display()));
    let [nx, ny, nz] = field.shape;
    let slice = &field.values[nx / 2 * ny * nz..][..ny * nz];
    let least = slice.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = slice.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scale = LEAST_SIDE.div_ceil(ny.min(nz)).max(1);
    let (width, height) = (ny * scale + 2 * GAP + BAR, nz * scale);

    let mut pixels = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        let z = nz - 1 - row / scale;
        for y in 0..ny {
            let pixel = colour(part(slice[y * nz + z], least, greatest));
            (0..scale).for_each(|_| pixels.extend(pixel));
        }
        (0..GAP).for_each(|_| pixels.extend([255; 3]));
        let pixel = colour((height - 1 - row) as f64 / (height - 1).max(1) as f64);
        (0..BAR).for_each(|_| pixels.extend(pixel));
        (0..GAP).for_each(|_| pixels.extend([255; 3]));
    }

    let side = |n: usize| u32::try_from(n).map_err(|_| fail(format!("{width} x {height} pixels are too many")));
    let file = BufWriter::new(File::create(path).map_err(|e| fail(e.to_string()))?);
    let mut png = png::Encoder::new(file, side(width)?, side(height)?);
    png.set_color(png::ColorType::Rgb);
    png.set_depth(png::BitDepth::Eight);
    let words = format!("heat at x index {}: y to the right, z upwards, values {least:e} to {greatest:e}", nx / 2);
    png.add_text_chunk("Description".into(), words).map_err(|e| fail(e.to_string()))?;
    let mut png = png.write_header().map_err(|e| fail(e.to_string()))?;
    png.write_image_data(&pixels).map_err(|e| fail(e.to_string()))?;
    png.finish().map_err(|e| fail(e.to_string()))
}

/// Where `value` lies between the least and the greatest, 0 to 1; a constant slice is in the middle.
fn part(value: f64, least: f64, greatest: f64) -> f64 {
    if greatest > least { (value - least) / (greatest - least) } else { 0.5 }
}

fn colour(part: f64) -> [u8; 3] {
    let at = part.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let low = (at as usize).min(COLOURS.len() - 2);
    let mix = at - low as f64;
    std::array::from_fn(|c| (COLOURS[low][c] * (1.0 - mix) + COLOURS[low + 1][c] * mix).round() as u8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_hottest_cell_is_yellow_and_the_coldest_dark_where_they_belong() {
        let (nx, ny, nz) = (3, 4, 5);
        let mut values = vec![0.5; nx * ny * nz];
        let middle = ny * nz;
        values[middle + 2 * nz + 4] = 1.0; // y = 2, z = 4: the top row
        values[middle] = 0.0; // y = 0, z = 0: the bottom left corner
        values[0] = 99.0; // another slice: not seen
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&Field { shape: [nx, ny, nz], values }, file.path()).unwrap();

        let mut png = png::Decoder::new(std::io::BufReader::new(File::open(file.path()).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; png.output_buffer_size().unwrap()];
        let info = png.next_frame(&mut pixels).unwrap();
        let scale = LEAST_SIDE.div_ceil(4);
        assert_eq!((info.width as usize, info.height as usize), (4 * scale + 2 * GAP + BAR, 5 * scale));
        let pixel = |x: usize, y: usize| &pixels[(y * info.width as usize + x) * 3..][..3];
        assert_eq!(pixel(2 * scale + scale / 2, scale / 2), [253, 231, 37]);
        assert_eq!(pixel(0, info.height as usize - 1), [68, 1, 84]);
        assert_eq!(pixel(info.width as usize - GAP - 1, 0), [253, 231, 37], "the bar ends with the greatest");
    }

    #[test]
    fn a_constant_field_has_a_picture() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&Field { shape: [1, 1, 1], values: vec![3.0] }, file.path()).unwrap();
        assert!(std::fs::metadata(file.path()).unwrap().len() > 100);
    }
}
