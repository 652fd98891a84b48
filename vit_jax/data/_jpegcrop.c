// Decodes one box of a JPEG. It skips the inverse transform, upsampling and color conversion of the
// pixels around the box, which are half of the work of an inception crop. This extension is
// optional: without it, vit_jax.data.decode decodes the whole image and slices it.
//
// The pixels equal those of a whole decode. Any warning of libjpeg is an error here. The caller then
// decodes the whole image with Pillow, which decides whether the file can be read. The rows below
// the box are not decoded, which saves a tenth of the time. Only their end is checked: the caller
// decides, too, if it is not the end marker. A warning that concerns these rows is not noticed.
//
// It needs libjpeg-turbo 1.5 or later (jpeg_crop_scanline, jpeg_skip_scanlines).
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

// Fancy chroma upsampling reads one chroma sample, at most 4 pixels, on either side of a pixel.
#define MARGIN 4
#define MAX_ROWS 4

typedef struct {
  struct jpeg_error_mgr base;  // first, so that a pointer to it is a pointer to this struct
  jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
} ErrorManager;

static void on_error(j_common_ptr cinfo) {
  ErrorManager *errors = (ErrorManager *)cinfo->err;
  errors->base.format_message(cinfo, errors->message);
  longjmp(errors->escape, 1);
}

static void on_message(j_common_ptr cinfo, int level) {
  if (level < 0) on_error(cinfo);  // a warning: the pixels that follow may be wrong
}

static void fail(ErrorManager *errors, const char *message) {
  strcpy(errors->message, message);
  longjmp(errors->escape, 1);
}

// Returns 1 if the end marker follows the rows that have not been read. Inside entropy-coded data, a
// byte of 0xff is followed by 0, and restart markers (RST0 to RST7) may occur.
static int has_end_marker(j_decompress_ptr cinfo) {
  int marker = cinfo->unread_marker;
  const unsigned char *next = cinfo->src->next_input_byte;
  const unsigned char *end = next + cinfo->src->bytes_in_buffer;
  while (marker == 0 || marker == 0xff || (marker >= JPEG_RST0 && marker <= JPEG_RST0 + 7)) {
    // A second 0xff is padding, and its successor is the marker.
    const unsigned char *start = marker == 0xff ? next - 1 : memchr(next, 0xff, end - next);
    if (start == NULL || end - start < 2) return 0;
    marker = start[1];
    next = start + 2;
  }
  return marker == JPEG_EOI;
}

// Fills out, (height, width, 3), with RGB. Returns 0, or -1 with a message in errors->message.
static int decode(const unsigned char *data, size_t size, JDIMENSION y, JDIMENSION x,
                  JDIMENSION height, JDIMENSION width, unsigned char *out, ErrorManager *errors) {
  struct jpeg_decompress_struct cinfo;
  unsigned char *volatile strip = NULL;  // volatile: read after longjmp
  cinfo.err = jpeg_std_error(&errors->base);
  errors->base.error_exit = on_error;
  errors->base.emit_message = on_message;
  jpeg_create_decompress(&cinfo);
  if (setjmp(errors->escape)) {
    jpeg_destroy_decompress(&cinfo);
    free(strip);
    return -1;
  }
  jpeg_mem_src(&cinfo, (unsigned char *)data, (unsigned long)size);
  jpeg_read_header(&cinfo, TRUE);
  cinfo.out_color_space = JCS_RGB;
  jpeg_start_decompress(&cinfo);
  // Subtract instead of add, because a sum of unsigned numbers could wrap around.
  if (height < 1 || height > cinfo.output_height || y > cinfo.output_height - height ||
      width < 1 || width > cinfo.output_width || x > cinfo.output_width - width)
    fail(errors, "the box is outside the image");
  JDIMENSION left = x > MARGIN ? x - MARGIN : 0;
  JDIMENSION right = x + width + MARGIN;
  if (right > cinfo.output_width) right = cinfo.output_width;
  JDIMENSION strip_width = right - left;
  jpeg_crop_scanline(&cinfo, &left, &strip_width);  // moves left to the start of its block
  strip = malloc((size_t)MAX_ROWS * strip_width * 3);
  if (strip == NULL) fail(errors, "out of memory");
  JSAMPROW rows[MAX_ROWS];
  for (int i = 0; i < MAX_ROWS; i++) rows[i] = strip + (size_t)i * strip_width * 3;
  if (y > 0) jpeg_skip_scanlines(&cinfo, y);
  while (cinfo.output_scanline < y + height) {
    JDIMENSION n = y + height - cinfo.output_scanline;
    n = jpeg_read_scanlines(&cinfo, rows, n < MAX_ROWS ? n : MAX_ROWS);
    for (JDIMENSION i = 0; i < n; i++, out += (size_t)width * 3)
      memcpy(out, rows[i] + (size_t)(x - left) * 3, (size_t)width * 3);
  }
  if (cinfo.output_scanline == cinfo.output_height) {
    jpeg_finish_decompress(&cinfo);  // reads up to the end marker
  } else if (!jpeg_input_complete(&cinfo) && !has_end_marker(&cinfo)) {
    fail(errors, "The end marker does not follow the pixels");
  }
  jpeg_destroy_decompress(&cinfo);
  free(strip);
  return 0;
}

static PyObject *decode_box(PyObject *self, PyObject *args) {
  Py_buffer data, out;
  unsigned int y, x, height, width;
  if (!PyArg_ParseTuple(args, "y*w*IIII", &data, &out, &y, &x, &height, &width)) return NULL;
  ErrorManager errors;
  int failed = -1;
  if (out.len != (Py_ssize_t)height * width * 3) {
    strcpy(errors.message, "out has the wrong size");
  } else {
    Py_BEGIN_ALLOW_THREADS
    failed = decode(data.buf, data.len, y, x, height, width, out.buf, &errors);
    Py_END_ALLOW_THREADS
  }
  PyBuffer_Release(&data);
  PyBuffer_Release(&out);
  if (failed) return PyErr_Format(PyExc_ValueError, "%s", errors.message);
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode_box", decode_box, METH_VARARGS,
     "decode_box(data, out, y, x, height, width): fill out, (height, width, 3) uint8, with RGB."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_jpegcrop", NULL, 0, methods};

PyMODINIT_FUNC PyInit__jpegcrop(void) { return PyModule_Create(&module); }
