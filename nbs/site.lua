-- Quarto shows the words in `![words](picture)` as a caption and gives the picture no alternative text.
-- Here they become the alternative text; a figure with an identifier keeps its caption beside it.
local words = pandoc.utils.stringify

function Image(img)
  if not img.attributes['fig-alt'] and #img.caption > 0 then img.attributes['fig-alt'] = words(img.caption) end
  img.attributes['alt'] = img.attributes['fig-alt']
  return img
end

function Figure(fig)
  local block = fig.content[1]
  if fig.identifier ~= '' or #fig.content ~= 1 or not block.content or #block.content ~= 1 then return nil end
  local img = block.content[1]
  if img.t ~= 'Image' then return nil end
  img.attributes['fig-alt'] = img.attributes['fig-alt'] or words(fig.caption.long)
  img.attributes['alt'] = img.attributes['fig-alt']
  img.caption = {}
  return pandoc.Para({img})
end

-- nbdev links a name to where the site will be published; on the site itself the page next door is meant.
local home = 'https://lowlight-nat.github.io/lowlight_nat/'

-- What nbdev links to an anchor that it doesn't make, and where it is shown; nowhere, if empty. Filled by nbs/reference.py.
local moved = {
  -- moved:start
  ['callbacks.html#emaweights.catch_up'] = 'callbacks.html#catch_up',
  ['callbacks.html#emaweights.load_state_dict'] = 'callbacks.html#emaweights',
  ['checkpoints.html#checkpoint.state'] = 'checkpoints.html#checkpoint',
  ['deploy.html#_smaller'] = '',
  ['enhance.html#_smaller'] = '',
  ['enhance.html#enhancer.__call__'] = '',
  ['enhance.html#enhancer.from_pretrained'] = 'enhance.html#enhancer',
  ['files.html#_said'] = '',
  ['files.html#_write_beside'] = '',
  ['llflow.html#llflowconfig.full'] = 'llflow.html#llflowconfig',
  ['model.html#lowlightnat.doubt'] = 'model.html#doubt',
  ['restormer.html#restormerconfig.full'] = 'restormer.html#restormerconfig',
  -- moved:end
}
local letters = {tau = true}   -- in running text the threshold, not the experiment of that name

function Link(link)
  if link.target:sub(1, #home) ~= home then return nil end
  if #link.content == 1 and link.content[1].t == 'Code' and letters[link.content[1].text] then return link.content end
  local rest = link.target:sub(#home + 1)
  rest = moved[rest] or rest
  if rest == '' and link.target ~= home then return link.content end
  local up = quarto and quarto.project and quarto.project.offset or '.'
  link.target = up .. '/' .. rest
  return link
end
