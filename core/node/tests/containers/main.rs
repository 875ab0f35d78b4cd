//! Real containers; needs root.

mod lab;
mod lifecycle;
mod restart;
mod sandbox;
mod streams;
